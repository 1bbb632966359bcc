"""Merging: deltas and checkpoints, every stored form, heads, masks, deltas as output, against written equations."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoints import write_checkpoint
from deltagram import seeds
from deltagram.delta import backend
from deltagram.delta.masks import Bernoulli
from deltagram.delta.merge import METHODS, combine
from deltagram.errors import PlanError, SettingError
from deltagram.jobs import merge, prune, restore, verify
from deltagram.jobs.mergekit_yaml import read_recipe
from deltagram.jobs.recipe import recipe
from deltagram.store.checkpoint import open_checkpoint

State = dict[str, NDArray[Any]]
KINDS: Mapping[str, Any] = {
    "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64, "I64": np.int64,
}  # fmt: skip


def base_state() -> State:
    rng = np.random.default_rng(0)
    return {
        "embed.weight": rng.standard_normal((5000, 64)).astype(np.float32),  # more than one block
        "h.0.weight": rng.standard_normal((48, 32)).astype(ml_dtypes.bfloat16),
        "h.1.weight": rng.standard_normal((48, 32)).astype(np.float16),
        "h.2.weight": rng.standard_normal((48, 32)),
        "norm.weight": np.ones(32, np.float32),
        "scalar": np.array(0.5, np.float32),
        "empty.weight": np.ones((0, 4), np.float32),
        "ids": np.arange(9, dtype=np.int64),
    }


def tuned_state(seed: int, **more: NDArray[Any]) -> State:
    rng = np.random.default_rng(seed)
    moved = {
        name: array
        if array.dtype == np.int64
        else (array + rng.standard_normal(array.shape) * 0.01).astype(array.dtype)
        for name, array in base_state().items()
    }
    return {name: np.asarray(array) for name, array in moved.items()} | more


def read(path: Path) -> State:
    opened = open_checkpoint(path)
    return {n: np.array(opened.raw(n)).view(KINDS[spec.dtype]).reshape(spec.shape) for n, spec in opened.specs.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, the fine-tuned `t1` to `t3`, and deltas of every form of them."""
    made = tmp_path_factory.mktemp("merge")
    write_checkpoint(made / "base", base_state())
    for seed in (1, 2, 3):
        write_checkpoint(made / f"t{seed}", tuned_state(seed))
    prune(made / "base", made / "t1", made / "random", keep=0.05, seed=1)
    prune(made / "base", made / "t2", made / "listed", keep=0.1, method="magnitude", values="4bit")
    prune(made / "base", made / "t3", made / "exact", method="exact")
    for seed in (1, 2, 3):
        prune(made / "base", made / f"t{seed}", made / f"shared{seed}", keep=0.05, seed=9)
    for name in ("random", "listed", "exact"):
        restore(made / "base", made / name, made / f"{name}-restored")
    return made


@pytest.mark.parametrize("method", METHODS)
def test_deltas_merge_as_the_checkpoints_they_stand_for(method: str, place: Path, tmp_path: Path) -> None:
    """Bit for bit, for every method, whatever the threads, kernels and shards."""
    settings: dict[str, Any] = {"method": method, "weights": [1.0, 0.5, 0.25]}
    settings |= {} if METHODS[method].trim == "none" else {"densities": [0.5]}
    names = ("random", "listed", "exact")
    deltas = recipe(place / "base", [place / name for name in names], **settings)
    merge(deltas, tmp_path / "a", threads=1)
    merge(recipe(place / "base", [place / f"{n}-restored" for n in names], **settings), tmp_path / "b", threads=4)
    with backend.using("numpy"):
        merge(deltas, tmp_path / "c", shard_bytes=20_000)
    merge(deltas, tmp_path / "lone.safetensors")
    assert len(list((tmp_path / "c").glob("model-*"))) > 1
    found = [read(tmp_path / name) for name in ("a", "b", "c", "lone.safetensors")]
    assert all(state[name].tobytes() == array.tobytes() for state in found for name, array in found[0].items())
    assert {name: a.dtype for name, a in found[0].items()} == {name: a.dtype for name, a in base_state().items()}
    assert (tmp_path / "a" / "config.json").is_file()


def test_an_entry_is_the_written_equation(place: Path, tmp_path: Path) -> None:
    """TIES by hand, with NumPy's sort instead of a histogram; float32, and float64 for the F64 tensor."""
    merge(recipe(place / "base", [place / "t1", place / "t2"], method="ties", weights=[0.7, 0.6], densities=[0.3, 0.2]),
          tmp_path / "out")  # fmt: skip
    found, base = read(tmp_path / "out"), base_state()
    for name in ("embed.weight", "h.0.weight", "h.2.weight", "norm.weight", "scalar"):
        wide = np.float64 if base[name].dtype == np.float64 else np.float32
        rows = []
        for seed, density in ((1, 0.3), (2, 0.2)):
            vector = (tuned_state(seed)[name].astype(wide) - base[name].astype(wide)).ravel()
            order = np.argsort(-np.abs(vector.astype(np.float32)), kind="stable")
            vector[order[max(1, int(density * vector.size)) :]] = 0
            rows.append(vector)
        merged = base[name].astype(wide).ravel() + combine(np.stack(rows), [0.7, 0.6], consensus="sum", normalize=True)
        assert found[name].ravel().tobytes() == merged.astype(base[name].dtype).tobytes(), name


@pytest.mark.parametrize("dare", ["ours", "mergekit"])
def test_dare_rescales_as_it_says(dare: str, place: Path, tmp_path: Path) -> None:
    """The mask of model i is that of seed + i; ours divides by its probability, mergekit's matches the L1 norm."""
    asked = recipe(place / "base", [place / "t1", place / "t2"], method="dare_linear", densities=[0.1])
    record = merge(asked, tmp_path / "out", seed=4, dare=dare)
    found, base = read(tmp_path / "out"), base_state()
    for name in ("embed.weight", "norm.weight"):
        total = base[name].ravel().copy()
        for number in (0, 1):
            vector = (tuned_state(number + 1)[name] - base[name]).ravel()
            mask = Bernoulli.draw(size=vector.size, key=seeds.key(4 + number, name), threshold=round(0.1 * 2**32))
            kept = np.zeros_like(vector)
            at = mask.positions(0, mask.keep).astype(np.int64)
            kept[at] = vector[at]
            norm = np.abs(vector).sum(dtype=np.float64) / np.abs(kept).sum(dtype=np.float64)
            total += kept * np.float32(1 / 0.1 if dare == "ours" else norm)
        np.testing.assert_allclose(found[name].ravel(), total, rtol=0, atol=4 * np.finfo(np.float32).eps * 5)
    low, high = record.numbers["factor_to_dare"]
    if dare == "ours":
        assert (low, high) == pytest.approx((1, 1), abs=1e-8)  # a probability is a multiple of 2^-32
    else:
        assert low < 0.95
        assert high > 1.05


def test_dare_of_one_model_is_pruning_and_restoring(place: Path, tmp_path: Path) -> None:
    merge(recipe(place / "base", [place / "t1"], method="dare_linear", densities=[0.2]), tmp_path / "m", seed=7)
    prune(place / "base", place / "t1", tmp_path / "d", method="bernoulli", keep=0.2, values="f32", seed=7)
    restore(place / "base", tmp_path / "d", tmp_path / "r")
    merged, restored = read(tmp_path / "m"), read(tmp_path / "r")
    for name in ("embed.weight", "h.0.weight", "h.1.weight"):  # merging multiplies where restoring divides
        one = float(ml_dtypes.finfo(merged[name].dtype).eps) * 8
        assert np.abs(merged[name].astype(np.float64) - restored[name].astype(np.float64)).max() <= one


def test_dare_keeps_the_mean_over_seeds(place: Path, tmp_path: Path) -> None:
    """The merged task vector's mean, over 12 seeds, within 5 sigma of the undropped one."""
    asked = recipe(place / "base", [place / "t1", place / "t2"], method="dare_linear", densities=[0.1])
    vectors = [tuned_state(s)["embed.weight"] - base_state()["embed.weight"] for s in (1, 2)]
    size = vectors[0].size
    means = []
    for seed in range(12):
        merge(asked, tmp_path / "out", seed=100 * seed, force=True)
        means.append((read(tmp_path / "out")["embed.weight"] - base_state()["embed.weight"]).mean(dtype=np.float64))
    sigma = np.sqrt(sum(float((v.astype(np.float64) ** 2).sum()) for v in vectors) * 0.9 / 0.1) / size / np.sqrt(12)
    assert abs(np.mean(means) - sum(float(v.mean(dtype=np.float64)) for v in vectors)) < 5 * sigma


def test_a_delta_as_output_restores_to_the_merged_checkpoint(place: Path, tmp_path: Path) -> None:
    """Losslessly by default; with --keep as large as the union of what was kept, within the codec."""
    asked = recipe(place / "base", [place / "random", place / "listed"], weights=[1.0, 1.0], method="task_arithmetic")
    merge(asked, tmp_path / "dense")
    record = merge(asked, tmp_path / "lossless", written="delta")
    assert record.numbers["delta_bytes"] < 0.5 * open_checkpoint(place / "base").nbytes
    assert json.loads(record.line())["settings"]["as"] == "delta"
    verify(tmp_path / "lossless", base=place / "base")
    restore(place / "base", tmp_path / "lossless", tmp_path / "r1")
    dense = read(tmp_path / "dense")
    assert all(dense[n].tobytes() == a.tobytes() for n, a in read(tmp_path / "r1").items())
    merge(asked, tmp_path / "kept", written="delta", keep=0.15, values="f32")
    restore(place / "base", tmp_path / "kept", tmp_path / "r2")
    assert all(dense[n].tobytes() == a.tobytes() for n, a in read(tmp_path / "r2").items() if n != "h.2.weight")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_shared_masks_are_reported(place: Path, tmp_path: Path) -> None:
    record = merge(recipe(place / "base", [place / "shared1", place / "random", place / "shared2"]), tmp_path / "out")
    (pair,) = record.numbers["shared_masks"]
    assert pair["models"] == [str(place / "shared1"), str(place / "shared2")]
    assert pair["tensors"] == pair["of"] > 0


def test_resized_and_absent_tensors_follow_the_rule(place: Path, tmp_path: Path) -> None:
    """A head only some have, a grown embedding, a tensor that one dropped: refused by name, or one model's."""
    rng = np.random.default_rng(5)
    head, grown = np.ones((3, 32), np.float32), rng.standard_normal((5010, 64)).astype(np.float32)
    first = tuned_state(1, **{"classifier.weight": head})
    second = tuned_state(2, **{"classifier.weight": 2 * head, "embed_tokens.weight": grown})
    del second["norm.weight"]
    write_checkpoint(tmp_path / "base", base_state() | {"embed_tokens.weight": grown[:5000]})
    write_checkpoint(tmp_path / "one", first | {"embed_tokens.weight": grown[:5000] + np.float32(0.5)})
    write_checkpoint(tmp_path / "two", second)
    for name in ("one", "two"):
        prune(tmp_path / "base", tmp_path / name, tmp_path / f"{name}-d", keep=0.1)
    asked = recipe(tmp_path / "base", [tmp_path / "one-d", tmp_path / "two-d"], method="task_arithmetic")
    with pytest.raises(PlanError, match=r"classifier\.weight: is in .*one-d, but not in the base.*--heads N"):
        merge(asked, tmp_path / "out")
    record = merge(asked, tmp_path / "by-two", heads="2")
    found = read(tmp_path / "by-two")
    assert np.array_equal(found["classifier.weight"], 2 * head)
    assert found["embed_tokens.weight"].shape == (5010, 64)
    assert "norm.weight" not in found
    assert record.numbers["copied"] == ["classifier.weight", "embed_tokens.weight", "ids"]
    assert record.numbers["dropped"] == ["norm.weight"]
    assert record.numbers["left_out"] == [f"{tmp_path / 'one-d'}: norm.weight"]
    record = merge(asked, tmp_path / "by-base", heads="base")
    found = read(tmp_path / "by-base")
    assert set(found) == set(base_state()) | {"embed_tokens.weight"}
    assert np.array_equal(found["norm.weight"], base_state()["norm.weight"])
    assert record.numbers["left_out"] == [f"{tmp_path / n}-d: classifier.weight" for n in ("one", "two")]
    averaged = merge(recipe(tmp_path / "base", [tmp_path / "one", tmp_path / "one-d"]), tmp_path / "heads")
    assert np.array_equal(read(tmp_path / "heads")["classifier.weight"], head)  # averages need no base
    assert averaged.numbers["copied"] == []


def test_integers_that_differ_are_refused_or_one_models(place: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "odd", tuned_state(1) | {"ids": np.arange(1, 10, dtype=np.int64)})
    asked = recipe(place / "base", [place / "t2", tmp_path / "odd"])
    with pytest.raises(PlanError, match=r"ids: is I64, which cannot be merged, and differs between .*base and .*odd"):
        merge(asked, tmp_path / "out")
    merge(asked, tmp_path / "out", heads="2")
    assert read(tmp_path / "out")["ids"].tolist() == list(range(1, 10))


def test_names_with_a_prefix_and_a_type_that_is_asked_for(place: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        state = {f"model.{name}": array for name, array in tuned_state(seed).items()}
        write_checkpoint(tmp_path / f"p{seed}", state)
        (tmp_path / f"p{seed}" / "config.json").write_text(json.dumps({"torch_dtype": "float32", "seed": seed}))
    record = merge(recipe(place / "base", [tmp_path / "p1", tmp_path / "p2"], dtype="bfloat16"), tmp_path / "out")
    plain = merge(recipe(place / "base", [place / "t1", place / "t2"]), tmp_path / "plain")
    found, expected = read(tmp_path / "out"), read(tmp_path / "plain")
    assert {name.removeprefix("model.") for name in found} == set(expected)
    assert found["model.embed.weight"].dtype == ml_dtypes.bfloat16
    assert np.array_equal(found["model.embed.weight"], expected["embed.weight"].astype(ml_dtypes.bfloat16))
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"torch_dtype": "bfloat16", "seed": 1}
    assert record.numbers["merged_bytes"] < plain.numbers["merged_bytes"]


def test_a_file_may_name_deltas_and_follow_layers(place: Path, tmp_path: Path) -> None:
    (tmp_path / "m.yml").write_text(
        f"merge_method: task_arithmetic\nbase_model: {place / 'base'}\nmodels:\n- model: {place / 'exact'}\n"
        "  parameters: {weight: [1, 0, 1]}\n"
    )
    record = merge(read_recipe(tmp_path / "m.yml"), tmp_path / "out")
    found, base, tuned = read(tmp_path / "out"), base_state(), tuned_state(3)
    assert found["h.1.weight"].tobytes() == base["h.1.weight"].tobytes()
    for name in ("embed.weight", "h.0.weight", "h.2.weight"):
        apart = np.abs(found[name].astype(np.float64) - tuned[name].astype(np.float64)).max()
        assert apart <= np.finfo(np.float32).eps * np.abs(base[name].astype(np.float64)).max()  # base + (tuned - base)
    assert record.settings["models"][0]["weight"] == [1.0, 0.0, 1.0]


def test_weights_that_cancel_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"weights: embed\.weight: the weights 1, -1 add up to nothing"):
        merge(recipe(place / "base", [place / "t1", place / "t2"], weights=[1, -1]), tmp_path / "out")


def test_what_is_not_finite_is_refused_by_name(place: Path, tmp_path: Path) -> None:
    state = tuned_state(1)
    state["norm.weight"][3] = np.nan
    write_checkpoint(tmp_path / "nan", state)
    for method, more in (("linear", {}), ("ties", {"densities": [0.5]}), ("dare_ties", {"densities": [0.5]})):
        asked = recipe(place / "base", [place / "t2", tmp_path / "nan"], method=method, **more)
        with pytest.raises(PlanError, match=r"norm\.weight: .*nan holds NaN or infinity in it"):
            merge(asked, tmp_path / "out")
    asked = recipe(place / "base", [place / "t1"], method="task_arithmetic", weights=[1e9])
    with pytest.raises(PlanError, match=r"h\.1\.weight: a merged entry is not finite in F16; lower the weights"):
        merge(asked, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nan"]
