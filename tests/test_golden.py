"""Deltas of every released format version are read for ever, and the writer of the newest still writes its bytes."""

import json
from pathlib import Path

import pytest

from deltagram.jobs import inspect, prune, restore, verify
from deltagram.store import open_checkpoint

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if (path / "delta").is_dir())


def test_every_released_version_has_one() -> None:
    assert VERSIONS == ["v1"]


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_deltas_restore_to_the_recorded_digests(version: str, tmp_path: Path) -> None:
    folder = GOLDEN / version
    verify(folder / "delta", base=folder / "base.safetensors")
    restore(folder / "base.safetensors", folder / "delta", tmp_path / "restored")
    opened = open_checkpoint(tmp_path / "restored")
    assert {name: opened.digest(name) for name in sorted(opened.specs)} == json.loads(
        (folder / "restored.json").read_text()
    )


def test_the_golden_delta_has_every_form_and_feature() -> None:
    numbers = inspect(GOLDEN / VERSIONS[-1] / "delta").numbers
    assert set(numbers["forms"]) == {"pruned", "resized", "whole", "same", "exact"}
    assert {"stratified", "bernoulli", "listed", "uniform", "codebook", "zstd"} <= set(numbers["requires"])
    assert numbers["dropped"] == ["encoder.pooler.weight"]


def test_the_same_input_still_gives_the_same_positions_and_values(tmp_path: Path) -> None:
    """Pruning the golden pair again: masks, values and scales are the recorded ones, tensor by tensor.

    (Packed bytes may differ between versions of the zstd library; what they decode to may not.)
    """
    folder = GOLDEN / VERSIONS[-1]
    base, tuned, plan = folder / "base.safetensors", folder / "tuned.safetensors", folder / "plan.yaml"
    prune(base, tuned, tmp_path / "delta", keep=0.05, plan=plan)
    restore(base, tmp_path / "delta", tmp_path / "restored")
    opened = open_checkpoint(tmp_path / "restored")
    expected = json.loads((folder / "restored.json").read_text())
    assert {name: opened.digest(name) for name in opened.specs} == expected
