"""What a person reads: whole lines in a pipe, the facts that matter, sizes in words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import write_checkpoint
from deltagram import show
from deltagram.cli import app
from deltagram.commands.demo import show_demo
from deltagram.commands.options import parse_bytes
from deltagram.errors import SettingError
from deltagram.records import Record


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    rng = np.random.default_rng(0)
    base = {"[layer].weight": rng.standard_normal((90, 70)).astype(np.float32), "old": np.ones(3, np.float32)}
    tuned = {
        "[layer].weight": base["[layer].weight"] + np.float32(0.01),
        "classifier.weight": np.ones((2, 70), np.float32),
    }
    (write_checkpoint(tmp_path / "tuned", tuned) / "optimizer.json").write_text("{}")
    return str(write_checkpoint(tmp_path / "base", base)), str(tmp_path / "tuned")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    app([str(word) for word in words], standalone_mode=False)
    found = capsys.readouterr()
    assert found.err == ""
    return found.out


def test_a_session(pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, tuned = pair
    delta = str(tmp_path / "d")
    told = run(capsys, "prune", base, tuned, delta, "--keep", "0.1")
    assert "smaller than the fine-tuned checkpoint" in told
    assert "plan: 1 pruned, 1 whole; names are equal" in told
    assert "dropped (not in the fine-tuned model): old" in told
    assert "left behind: optimizer.json" in told
    told = run(capsys, "inspect", delta, "--tensors")
    assert "[layer].weight" in told
    assert "630 stratified" in told
    assert "entropy bound" in told
    assert all(line == line.rstrip() or "  " in line for line in told.splitlines())
    assert "sound, 2 tensors" in run(capsys, "verify", delta, "--base", base)
    assert "1 tensors now divide by 0.5" in run(capsys, "rescale", delta, "--divide-by", "0.5")
    assert "2 tensors, 26 kB" in run(capsys, "restore", base, delta, tmp_path / "r")


@pytest.mark.parametrize(
    ("text", "size"), [("20MB", 20_000_000), ("1.5KiB", 1536), ("4096", 4096), ("300 kB", 300_000), ("2gb", 2 * 10**9)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "many", "-3MB", "0", "1.2.3kB", "5 parsecs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="--budget"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"), [(5, "5 B"), (999, "999 B"), (1500, "1.5 kB"), (123_456, "123 kB"), (5.4e8, "540 MB")]
)
def test_sizes_are_written(count: float, text: str) -> None:
    assert show.size(count) == text


def test_the_demo_table(capsys: pytest.CaptureFixture[str]) -> None:
    row: dict[str, Any] = {"variant": "V", "stored": "all", "bytes": 1000, "ratio": 1.0, "accuracy": 0.5}
    row |= {"prune_seconds": None, "restore_seconds": None}
    show_demo(Record(job="demo", numbers={"rows": [row, row | {"bytes": None, "ratio": None}]}))
    assert "1.0x" in capsys.readouterr().out
