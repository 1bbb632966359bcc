"""Deltas of every released format version are read for ever, and the writer of the newest still writes its bytes."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from deltagram.jobs import inspect, restore, verify
from deltagram.store import open_checkpoint
from deltagram.store.deltafile import open_delta
from deltagram.store.manifest import FEATURES as KNOWN
from deltagram.store.tensors import ColumnsMask, PrunedTensor
from golden.make import PRUNE

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if (path / "delta").is_dir())


def test_every_released_version_has_one() -> None:
    assert VERSIONS == sorted(PRUNE) == ["v1", "v1-more"]


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_deltas_restore_to_the_recorded_digests(version: str, tmp_path: Path) -> None:
    folder = GOLDEN / version
    verify(folder / "delta", base=folder / "base.safetensors")
    restore(folder / "base.safetensors", folder / "delta", tmp_path / "restored")
    opened = open_checkpoint(tmp_path / "restored")
    assert {name: opened.digest(name) for name in sorted(opened.specs)} == json.loads(
        (folder / "restored.json").read_text()
    )


FORMS = {
    "v1": {"pruned", "resized", "whole", "same", "exact"},
    "v1-more": {"pruned", "whole", "low_rank"},
}
FEATURES = {
    "v1": {"stratified", "bernoulli", "listed", "uniform", "codebook", "zstd", "resized", "exact"},
    "v1-more": {"bernoulli", "listed", "columns", "wanda", "uniform", "codebook", "zstd", "low_rank", "coded"},
}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_golden_deltas_have_every_form_and_feature(version: str) -> None:
    numbers = inspect(GOLDEN / version / "delta").numbers
    assert set(numbers["forms"]) == FORMS[version]
    assert set(numbers["requires"]) == FEATURES[version]
    assert numbers["dropped"] == (["encoder.pooler.weight"] if version == "v1" else [])


def test_together_they_have_what_the_format_has() -> None:
    """A feature that is added needs a golden delta."""
    assert set.union(*FEATURES.values()) == set(KNOWN)


def test_columns_are_of_every_score_and_both_kinds_and_divisors_of_rows_are_f16() -> None:
    opened = open_delta(GOLDEN / "v1-more" / "delta")
    masks = [entry.mask for entry in opened.manifest.tensors.values() if isinstance(entry, PrunedTensor)]
    columns = [mask for mask in masks if isinstance(mask, ColumnsMask)]
    assert {mask.score for mask in columns} == {"random", "magnitude", "wanda"}
    assert {mask.threshold is None for mask in columns} == {True, False}
    with safe_open(GOLDEN / "v1-more" / "delta" / "scales.safetensors", framework="np") as scales:
        rows = {name for name in scales.keys() if scales.get_slice(name).get_dtype() == "F16"}  # noqa: SIM118
    assert rows == {"columns.weight", "linear.weight:B"}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_input_still_gives_the_same_positions_and_values(version: str, tmp_path: Path) -> None:
    """Pruning the golden pair again: masks, values and scales are the recorded ones, tensor by tensor.

    (Packed bytes may differ between versions of the zstd library; what they decode to may not.)
    """
    folder = GOLDEN / version
    PRUNE[version](folder, tmp_path / "delta")
    restore(folder / "base.safetensors", tmp_path / "delta", tmp_path / "restored")
    opened = open_checkpoint(tmp_path / "restored")
    expected = json.loads((folder / "restored.json").read_text())
    assert {name: opened.digest(name) for name in opened.specs} == expected
