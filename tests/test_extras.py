"""Without an extra: one sentence that names the package and the fix, exit code 1, and nothing written."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_checkpoint
from deltagram.jobs import prune
from desk import base_state, snapshot, tuned_state

# The command line as it is where the package of the first argument is not installed.
RUN = """
import sys

missing = sys.argv.pop(1)


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())

from deltagram.cli import main

main()
"""
MODELS = "--base base --tuned tuned --calibration texts.jsonl"
COMMANDS = (
    "prune base tuned out --divide-by output --calibration texts.jsonl",
    "prune base tuned out --divide-by labels --labels labels.jsonl",
    "prune base tuned out --method wanda --calibration texts.jsonl",
    "prune base tuned out --refit --calibration texts.jsonl",
    f"rescale delta --divide-by output {MODELS}",
    "select base tuned --out out --budget 20kB --calibration texts.jsonl",
    "measure base labels.jsonl",
    "train base labels.jsonl --out out",
    "train base labels.jsonl --out out --lora 2",
    "export base delta out --to lora --rank 2",
    "export base delta out --to peft-sparse",
    "tokens texts.jsonl --context 1 -o s.npz --tokenizer base",
    f"inspect delta {MODELS}",
)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, a delta and texts, with what a model of transformers has beside its weights."""
    folder = tmp_path_factory.mktemp("room")
    for name, state in (("base", base_state()), ("tuned", tuned_state())):
        write_checkpoint(folder / name, state | {"b.weight": np.ones((32, 48), np.float32) * len(name)})
        (folder / name / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    prune(folder / "base", folder / "tuned", folder / "delta", keep=0.1)
    (folder / "texts.jsonl").write_text("".join(f'{{"text": "a {i}"}}\n' for i in range(20)))
    (folder / "labels.jsonl").write_text("".join(f'{{"text": "a {i}", "label": "{i % 2}"}}\n' for i in range(20)))
    return folder


def without(package: str, line: str, folder: Path) -> tuple[int, str, str]:
    """A command in a process of its own: exit code, stdout, stderr."""
    command = [sys.executable, "-W", "error", "-c", RUN, package, *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("line", COMMANDS)
def test_what_runs_a_model_says_that_torch_is_missing(room: Path, line: str) -> None:
    before = snapshot(room)
    said = "error: running a model: package torch is not installed; pip install 'deltagram[hf]'\n"
    assert without("torch", line, room) == (1, "", said)
    assert snapshot(room) == before


@pytest.mark.parametrize("line", ["verify delta --base base", "inspect delta --tensors", "restore base delta back"])
def test_what_works_on_deltas_needs_no_torch(room: Path, line: str) -> None:
    code, out, err = without("torch", line, room)
    assert (code, err) == (0, "")
    assert out.startswith(("delta", "back"))
