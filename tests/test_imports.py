"""What a job loads: neither torch nor transformers, unless it is about them; and nothing at all for a bare import."""

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_checkpoint
from deltagram import jobs, papers
from deltagram.serve.app_serve import serve

# Runs the lines given as arguments, one command each, and prints what was loaded in the end.
RUN = """
import json, sys
import deltagram.cli

for line in sys.argv[1:]:
    sys.argv = ["deltagram", *line.split()]
    try:
        deltagram.cli.main()
    except SystemExit as end:
        assert not end.code, line
print(json.dumps(sorted(sys.modules)))
"""
HEAVY = {"torch", "transformers", "huggingface_hub", "tokenizers", "datasets", "matplotlib", "pandas"}
JOBS = (
    "prune base tuned delta", "prune base tuned listed --method magnitude --values 4bit",
    "prune base tuned delta2 --seed 1",
    "prune base tuned book --method bernoulli --values codebook4", "prune base tuned exact --method exact",
    "prune base tuned columns --method columns", "verify columns --base base",
    "inspect delta", "inspect listed --tensors --json", "verify delta", "verify exact --base base",
    "merge base delta tuned merged --method ties --density 0.5", "merge base delta delta2 again --as delta",
    "rescale delta --divide-by 0.5", "restore base delta back", "restore base exact back.safetensors",
    "library init base lib", "library add lib delta", "library add lib exact --name other", "library list lib",
    "library verify lib --base base", "library remove lib other",
)  # fmt: skip


def loaded(*lines: str, code: str = RUN, folder: Path | None = None) -> set[str]:
    command = [sys.executable, "-W", "error", "-c", code, *lines]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_jobs_on_deltas_load_neither_torch_nor_transformers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = {"a.weight": rng.standard_normal((64, 64)).astype(np.float32), "b.bias": np.ones(4, np.float32)}
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "tuned", {name: array + np.float32(0.01) for name, array in base.items()})
    found = loaded(*JOBS, folder=tmp_path)
    assert {"deltagram.jobs.prune", "deltagram.jobs.restore", "numpy"} <= found
    assert found & HEAVY == set()
    assert (tmp_path / "back" / "model.safetensors").stat().st_size == (tmp_path / "back.safetensors").stat().st_size


def test_help_and_the_command_line_load_almost_nothing() -> None:
    found = loaded("--help")
    assert found & (HEAVY | {"numpy", "numba", "pydantic", "deltagram.jobs", "deltagram.store"}) == set()


def test_a_bare_import_loads_nothing() -> None:
    found = loaded(code="import json, sys, deltagram; print(json.dumps(sorted(sys.modules)))")
    assert {name for name in found if name.startswith("deltagram")} == {"deltagram"}
    package = Path(str(importlib.import_module("deltagram").__file__))
    assert package.read_bytes() == b""


@pytest.mark.parametrize("name", jobs.__all__)
def test_each_name_in_jobs_is_the_job(name: str) -> None:
    job = getattr(jobs, name)
    assert inspect.isfunction(job)
    assert job.__name__ == name
    assert job.__doc__
    assert job is getattr(importlib.import_module(f"deltagram.jobs.{name}"), name)


def test_jobs_the_papers_and_the_server_are_the_verbs_of_the_command_line() -> None:
    app = importlib.import_module("deltagram.cli").app
    found = {command.callback.__name__ for command in app.registered_commands}
    for family in app.registered_groups:
        name = family.typer_instance.info.name
        commands = family.typer_instance.registered_commands
        found |= {f"{name}_{command.callback.__name__.rstrip('_')}" for command in commands}
    assert found == {*jobs.__all__, papers.reproduce.__name__, serve.__name__}
