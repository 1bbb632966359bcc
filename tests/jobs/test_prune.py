"""Prune and restore: arithmetic against the equation, determinism, plans, budgets, forms."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoints import write_checkpoint
from deltagram import seeds
from deltagram.delta import backend
from deltagram.delta.masks import Stratified
from deltagram.errors import FormatError, PlanError, SettingError
from deltagram.jobs import inspect, prune, rescale, restore, verify
from deltagram.store.checkpoint import open_checkpoint
from deltagram.store.deltafile import open_delta

State = dict[str, NDArray[Any]]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, State, State]:
    rng = np.random.default_rng(0)
    base: State = {
        "embed.weight": rng.standard_normal((500, 64)).astype(np.float32),
        "layer.weight": rng.standard_normal((128, 64)).astype(ml_dtypes.bfloat16),
        "norm.weight": np.ones(64, np.float32),
        "ids": np.arange(9, dtype=np.int64),
        "same.weight": rng.standard_normal((30, 30)).astype(np.float16),
    }
    tuned = {n: (a + rng.standard_normal(a.shape) * 0.01).astype(a.dtype) for n, a in base.items()}
    tuned |= {"ids": base["ids"], "same.weight": base["same.weight"], "classifier.weight": np.ones((3, 64), np.float32)}
    return write_checkpoint(tmp_path / "base", base), write_checkpoint(tmp_path / "tuned", tuned), base, tuned


def restored(base: Path, delta: Path, out: Path, like: State) -> State:
    restore(base, delta, out)
    opened = open_checkpoint(out)
    return {n: np.array(opened.raw(n)).view(a.dtype).reshape(a.shape) for n, a in like.items()}


def test_a_restored_entry_is_the_written_equation(pair: tuple[Path, Path, State, State], tmp_path: Path) -> None:
    base_path, tuned_path, base, tuned = pair
    prune(base_path, tuned_path, tmp_path / "d", keep=0.05, values="f32", seed=7)
    found = restored(base_path, tmp_path / "d", tmp_path / "r", tuned)
    for name in ("embed.weight", "layer.weight"):
        flat, size = base[name].ravel(), base[name].size
        keep = round(0.05 * size)
        positions = Stratified(size=size, keep=keep, key=seeds.key(7, name)).positions(0, keep).astype(np.int64)
        expected = flat.copy()
        step = tuned[name].ravel().astype(np.float32) - flat.astype(np.float32)
        moved = flat.astype(np.float32) + step / np.float32(keep / size)
        expected[positions] = moved.astype(flat.dtype)[positions]
        assert found[name].ravel().tobytes() == expected.tobytes()
    for name in ("norm.weight", "ids", "same.weight", "classifier.weight"):
        assert found[name].tobytes() == tuned[name].tobytes()


def test_same_input_same_bytes_whatever_runs(pair: tuple[Path, Path, State, State], tmp_path: Path) -> None:
    """Threads, kernels and where the files lie change nothing; the seed does."""
    base, tuned, *_ = pair
    settings: list[dict[str, Any]] = [
        {"values": "4bit"}, {"values": "codebook3", "pack": False}, {"method": "magnitude"}, {"method": "exact"},
        {"method": "bernoulli"},
    ]  # fmt: skip
    for number, setting in enumerate(settings):
        keep = {} if setting.get("method") == "exact" else {"keep": 0.1}
        prune(base, tuned, tmp_path / f"a{number}", threads=1, **keep, **setting)
        prune(base, tuned, tmp_path / f"b{number}", threads=5, **keep, **setting)
        with backend.using("numpy"):
            prune(base, tuned, tmp_path / f"c{number}", **keep, **setting)
        payloads = {(tmp_path / f"{run}{number}" / "delta.safetensors").read_bytes() for run in "abc"}
        assert len(payloads) == 1
    prune(base, tuned, tmp_path / "other", keep=0.1, values="4bit", seed=1)
    assert (tmp_path / "other" / "delta.safetensors").read_bytes() != (tmp_path / "a0/delta.safetensors").read_bytes()


def test_sharded_input_and_output_change_nothing(pair: tuple[Path, Path, State, State], tmp_path: Path) -> None:
    base, tuned, _, tuned_state = pair
    prune(base, tuned, tmp_path / "one", keep=0.3, values="f32")
    prune(base, tuned, tmp_path / "many", keep=0.3, values="f32", shard_bytes=20_000)
    assert len(list((tmp_path / "many").glob("delta-*.safetensors"))) > 1
    verify(tmp_path / "many", base=base)
    first = restored(base, tmp_path / "one", tmp_path / "r1", tuned_state)
    restore(base, tmp_path / "many", tmp_path / "r2", shard_bytes=40_000)
    assert len(list((tmp_path / "r2").glob("model-*.safetensors"))) > 1
    second = open_checkpoint(tmp_path / "r2")
    assert all(second.raw(name).tobytes() == array.tobytes() for name, array in first.items())
    restore(base, tmp_path / "one", tmp_path / "lone.safetensors")
    lone = open_checkpoint(tmp_path / "lone.safetensors")
    assert all(lone.raw(name).tobytes() == array.tobytes() for name, array in first.items())


def test_exact_gives_the_tuned_model_back(pair: tuple[Path, Path, State, State], tmp_path: Path) -> None:
    base, tuned, _, state = pair
    state["embed.weight"][0, :3] = [np.nan, np.inf, -0.0]
    write_checkpoint(tuned, state)
    prune(base, tuned, tmp_path / "d", method="exact")
    found = restored(base, tmp_path / "d", tmp_path / "r", state)
    assert all(found[name].tobytes() == array.tobytes() for name, array in state.items())


def test_a_plan_file_decides_tensor_by_tensor(pair: tuple[Path, Path, State, State], tmp_path: Path) -> None:
    base, tuned, *_ = pair
    (tmp_path / "plan.yaml").write_text(
        "tensors:\n"
        "  - {match: '*', values: 8bit}\n"
        "  - {match: 'embed.*', method: magnitude, keep: 0.02, divide_by: 0.5}\n"
        "  - {match: 'norm.*', form: exact}\n"
    )
    prune(base, tuned, tmp_path / "d", keep=0.1, plan=tmp_path / "plan.yaml", whole=["layer.*"])
    rows = inspect(tmp_path / "d").tensors
    assert rows["layer.weight"]["form"] == "whole"
    assert rows["norm.weight"]["form"] == "exact"
    embed = rows["embed.weight"]
    assert (embed["mask"], embed["kept"], embed["divide_by"]) == ("listed", 640, 0.5)
    assert embed["values"] == {"codec": "uniform", "bits": 8, "group": 64, "pack": "zstd"}


@pytest.mark.parametrize("budget", [30_000, 60_000])
def test_a_budget_is_kept_to(pair: tuple[Path, Path, State, State], tmp_path: Path, budget: int) -> None:
    base, tuned, *_ = pair
    record = prune(base, tuned, tmp_path / "d", budget=budget)
    assert 0.3 * budget < record.numbers["delta_bytes"] <= budget


def test_sizes_before_packing_are_bounded(pair: tuple[Path, Path, State, State], tmp_path: Path) -> None:
    """At most 1.02 x (kept x bits, scales included) + 0.7 kB a tensor + whole tensors."""
    base, tuned, *_ = pair
    for values, bits in (("f32", 32), ("bf16", 16), ("8bit", 8.25), ("4bit", 4.25), ("2bit", 2.25), ("sign", 1.25)):
        prune(base, tuned, tmp_path / "d", keep=0.1, values=values, pack=False, force=True)
        delta = open_delta(tmp_path / "d")
        rows = inspect(tmp_path / "d").tensors
        kept = sum(row.get("kept", 0) for row in rows.values())
        whole = sum(row["bytes"] for row in rows.values() if row["form"] == "whole")
        assert delta.nbytes <= 1.02 * (kept * bits / 8) + 700 * len(rows) + whole


def test_rescaling_replaces_one_small_file(pair: tuple[Path, Path, State, State], tmp_path: Path) -> None:
    base, tuned, *_, state = pair
    prune(base, tuned, tmp_path / "d", keep=0.1, values="f32")
    before = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    first = restored(base, tmp_path / "d", tmp_path / "r1", state)
    rescale(tmp_path / "d", divide_by=0.5)
    after = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"scales.safetensors"}
    assert set(before) == set(after)
    second = restored(base, tmp_path / "d", tmp_path / "r2", state)
    assert second["embed.weight"].tobytes() != first["embed.weight"].tobytes()
    rescale(tmp_path / "d", divide_by="dare")
    assert (tmp_path / "d" / "scales.safetensors").read_bytes() == before["scales.safetensors"]
    prune(base, tuned, tmp_path / "d2", keep=0.1, values="f32", divide_by=0.5)
    third = restored(base, tmp_path / "d2", tmp_path / "r3", state)
    assert all(third[name].tobytes() == second[name].tobytes() for name in state)


@pytest.mark.parametrize(
    "divide_by", [0, -1, float("nan"), float("inf"), "tenth", {"nope": 1.0}, {"embed.weight": [1.0]}]
)
def test_divisors_that_cannot_be_are_refused(
    pair: tuple[Path, Path, State, State], tmp_path: Path, divide_by: Any
) -> None:
    base, tuned, *_ = pair
    prune(base, tuned, tmp_path / "d", keep=0.1)
    before = (tmp_path / "d" / "scales.safetensors").read_bytes()
    with pytest.raises(SettingError):
        rescale(tmp_path / "d", divide_by=divide_by)
    assert (tmp_path / "d" / "scales.safetensors").read_bytes() == before


def test_scales_of_another_delta_are_refused(pair: tuple[Path, Path, State, State], tmp_path: Path) -> None:
    base, tuned, *_ = pair
    for seed in (0, 1):
        prune(base, tuned, tmp_path / f"d{seed}", keep=0.1, seed=seed)
    (tmp_path / "d0" / "scales.safetensors").write_bytes((tmp_path / "d1" / "scales.safetensors").read_bytes())
    with pytest.raises(FormatError, match="belongs to the delta"):
        open_delta(tmp_path / "d0")


def test_a_result_that_overflows_is_refused(tmp_path: Path) -> None:
    base = {"w": np.full((40, 40), 6e4, np.float16)}
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "tuned", {"w": base["w"] + np.float16(1000)})
    prune(tmp_path / "base", tmp_path / "tuned", tmp_path / "d", keep=0.05)
    with pytest.raises(FormatError, match="w: a restored entry is not finite in F16; rescale the delta"):
        restore(tmp_path / "base", tmp_path / "d", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_records_tell_what_was_done(pair: tuple[Path, Path, State, State], tmp_path: Path) -> None:
    base, tuned, *_ = pair
    record = prune(base, tuned, tmp_path / "d", keep=0.1)
    told = json.loads(record.line())
    assert told["job"] == "prune"
    assert told["numbers"]["delta_bytes"] == sum(p.stat().st_size for p in (tmp_path / "d").iterdir())
    assert told["tensors"]["classifier.weight"] == {"form": "whole"}
    assert {"python", "numpy", "deltagram"} <= set(told["versions"])
    assert told["numbers"]["seconds"] > 0
    assert told["numbers"]["peak_rss_bytes"] > 0


def test_a_base_that_the_tuned_dtype_cannot_hold_is_refused(tmp_path: Path) -> None:
    """Entries that are not kept are narrowed too."""
    write_checkpoint(tmp_path / "base", {"w": np.full((40, 40), 70_000, np.float32)})
    write_checkpoint(tmp_path / "tuned", {"w": np.full((40, 40), 60_000, np.float16)})
    with pytest.raises(PlanError, match="w: an entry of the base is too large for F16; store it whole"):
        prune(tmp_path / "base", tmp_path / "tuned", tmp_path / "d", keep=0.1)
