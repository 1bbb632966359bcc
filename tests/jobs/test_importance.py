"""Pruning by importance and by columns: what is kept against the written rule, what it costs, and what is said."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoints import write_checkpoint
from deltagram import seeds
from deltagram.delta import backend, patch
from deltagram.delta.columns import column_block, column_product
from deltagram.delta.methods import METHODS, Calibrated, Structural
from deltagram.delta.scores import InputNorms
from deltagram.delta.stored import Pruned
from deltagram.errors import PlanError, SettingError
from deltagram.jobs import inspect, prune, rescale, restore, verify
from deltagram.store.checkpoint import open_checkpoint
from deltagram.store.deltafile import open_delta
from deltagram.store.tensors import PrunedTensor

State = dict[str, NDArray[Any]]
KEEP = 0.07
PRUNING = [name for name in METHODS if name != "exact"]


def states() -> tuple[State, State]:
    rng = np.random.default_rng(0)
    base: State = {
        "layer.weight": rng.standard_normal((70, 60)).astype(np.float32),
        "half.weight": rng.standard_normal((30, 80)).astype(ml_dtypes.bfloat16),
        "embed_tokens.weight": rng.standard_normal((90, 20)).astype(np.float32),
        "experts": rng.standard_normal((3, 12, 20)).astype(np.float32),
        "h.mlp.c_fc.weight": rng.standard_normal((20, 50)).astype(np.float32),
        "norm.weight": np.ones(20, np.float32),
    }
    tuned = {n: (a + rng.standard_normal(a.shape) * 0.01).astype(a.dtype) for n, a in base.items()}
    tuned["layer.weight"][5] = base["layer.weight"][5]  # ties in a row
    tuned["embed_tokens.weight"] = np.concatenate([tuned["embed_tokens.weight"], np.ones((2, 20), np.float32)])
    return base, tuned


NORMS = {
    name: InputNorms(values=np.random.default_rng(size).random(size, np.float32) * np.float32(2))
    for name, size in {"layer.weight": 60, "half.weight": 80}.items()
} | {"h.mlp.c_fc.weight": InputNorms(values=np.linspace(0, 2, 20, dtype=np.float32), transposed=True)}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    base, tuned = states()
    return write_checkpoint(tmp_path / "base", base), write_checkpoint(tmp_path / "tuned", tuned)


def made(pair: tuple[Path, Path], method: str, **settings: Any) -> tuple[Any, dict[str, Pruned]]:
    """The record of pruning, and the decoded tensors that are pruned."""
    if issubclass(METHODS[method], Calibrated):
        settings.setdefault("calibration", NORMS)
    out = pair[0].parent / "delta"
    record = prune(*pair, out, method=method, force=True, **{"keep": KEEP, "values": "f32", **settings})
    return record, {name: kept for name, kept in open_delta(out).load().items() if isinstance(kept, Pruned)}


def kept_of(tensor: Pruned) -> list[int]:
    return tensor.mask.positions(0, tensor.mask.keep).astype(int).tolist()


def difference(name: str) -> NDArray[np.float32]:
    base, tuned = states()
    found: NDArray[np.float32] = tuned[name][: len(base[name])].astype(np.float32) - base[name].astype(np.float32)
    return found


def largest(scores: NDArray[Any], keep: int) -> list[int]:
    """The slow rule: a stable sort, first ones first."""
    flat = scores.ravel()
    return sorted(sorted(range(flat.size), key=lambda i: (-flat[i], i))[:keep])


def by_rows(scores: NDArray[Any], keep: int) -> list[int]:
    rows, cols = scores.shape
    quota = [(i + 1) * keep // rows - i * keep // rows for i in range(rows)]
    return [i * cols + j for i in range(rows) for j in largest(scores[i], quota[i])]


@pytest.mark.parametrize("kind", ["numba", "numpy"])
@pytest.mark.parametrize("method", ["magnitude", "magnitude-rows", "wanda", "wanda-rows"])
def test_the_most_important_entries_are_kept(pair: tuple[Path, Path], method: str, kind: Any) -> None:
    with backend.using(kind):
        _, found = made(pair, method)
    for name in ("layer.weight", "half.weight"):
        delta = difference(name)
        scores = np.abs(delta) * (NORMS[name].values if "wanda" in method else np.float32(1))
        keep = round(KEEP * delta.size)
        expected = (by_rows if "rows" in method else largest)(scores, keep)
        assert kept_of(found[name]) == expected
        assert found[name].values.tobytes() == delta.ravel()[expected].tobytes()
        assert float(found[name].divide_by) == 1.0


def test_rows_are_found_again_in_any_blocks(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks smaller than a row, and of a few rows."""
    for method in ("wanda", "wanda-rows", "columns-wanda"):
        _, expected = made(pair, method)
        for size in (100, 1000):
            monkeypatch.setattr("deltagram.store.scan.BLOCK_BYTES", size)
            _, found = made(pair, method)
            monkeypatch.undo()
            assert {n: kept_of(t) for n, t in found.items()} == {n: kept_of(t) for n, t in expected.items()}
            assert all(found[n].values.tobytes() == expected[n].values.tobytes() for n in found)


def test_what_has_no_inputs_is_weighed_by_magnitude_and_says_so(pair: tuple[Path, Path]) -> None:
    record, found = made(pair, "wanda-rows")
    scores = {name: row["score"] for name, row in record.tensors.items() if "score" in row}
    assert scores == {
        "layer.weight": "wanda", "half.weight": "wanda", "embed_tokens.weight": "magnitude", "experts": "magnitude",
        "h.mlp.c_fc.weight": "wanda",
    }  # fmt: skip
    reasons = {name: row["reason"] for name, row in record.tensors.items() if "reason" in row}
    assert reasons["experts"] == "method; no input norms: by magnitude"
    assert reasons["embed_tokens.weight"] == "90 -> 92 rows; no input norms: by magnitude"
    assert reasons["h.mlp.c_fc.weight"] == "method; stored (input, output): over the whole tensor"
    assert reasons["layer.weight"] == "method"
    delta = difference("experts")
    assert kept_of(found["experts"]) == largest(np.abs(delta), round(KEEP * delta.size))
    delta = np.abs(difference("h.mlp.c_fc.weight")) * NORMS["h.mlp.c_fc.weight"].values[:, None]
    assert kept_of(found["h.mlp.c_fc.weight"]) == largest(delta, round(KEEP * delta.size))
    told = inspect(pair[0].parent / "delta").tensors
    assert {name: row["score"] for name, row in told.items() if "score" in row} == scores
    assert "2 listed by magnitude, 3 listed by wanda" in (pair[0].parent / "delta" / "README.md").read_text()


@pytest.mark.parametrize("method", ["columns", "columns-magnitude", "columns-wanda"])
@pytest.mark.parametrize(("keep", "columns"), [(KEEP, None), (0.02, 0.3), (0.2, 0.2), (0.0001, 0.05)])
def test_columns_are_chosen_and_filled(
    pair: tuple[Path, Path], method: str, keep: float, columns: float | None
) -> None:
    record, found = made(pair, method, keep=keep, columns=columns)
    for name in ("layer.weight", "half.weight"):
        delta = difference(name)
        rows, cols = delta.shape
        wanted = round(keep * delta.size) or 1
        count = max(1, round((columns or 5 * keep) * cols), -(-wanted // rows))
        if method == "columns":
            words = seeds.words(seeds.key(0, name), 0, cols, stream=1)
            chosen = sorted(np.argsort(words, kind="stable")[:count].tolist())
        else:
            weight = NORMS[name].values.astype(float) if method == "columns-wanda" else 1.0
            chosen = largest(np.sqrt((delta.astype(float) ** 2).sum(0)) * weight, count)
        mask: Any = found[name].mask
        assert mask.columns.tolist() == chosen
        kept = kept_of(found[name])
        assert {p % cols for p in kept} <= set(chosen)
        assert abs(len(kept) - wanted) <= (0 if wanted * 8 <= rows * count else 6 * (rows * count) ** 0.5)
        assert found[name].values.tobytes() == delta.ravel()[kept].tobytes()
        share = len(kept) / (delta.size if method == "columns" else rows * count)
        assert float(found[name].divide_by) == pytest.approx(share, rel=6 / max(1, len(kept)) ** 0.5)
    reasons = {name: row["reason"].partition("; ")[2] for name, row in record.tensors.items() if "reason" in row}
    assert reasons == {
        "layer.weight": "", "half.weight": "", "experts": "3-d: random instead of columns",
        "embed_tokens.weight": "a lookup table: random instead of columns",
        "h.mlp.c_fc.weight": "may be stored (input, output): random instead of columns",
    }  # fmt: skip


def test_columns_with_norms_are_weighed_and_those_without_are_not(pair: tuple[Path, Path]) -> None:
    norms = {"layer.weight": NORMS["layer.weight"]}
    record, _ = made(pair, "columns-wanda", calibration=norms)
    assert record.settings["method"] == "columns-wanda"
    assert {name: row["score"] for name, row in record.tensors.items() if row.get("mask") == "columns"} == {
        "layer.weight": "wanda", "half.weight": "magnitude",
    }  # fmt: skip
    assert record.tensors["half.weight"]["reason"] == "method; no input norms: by magnitude"


@pytest.mark.parametrize("method", PRUNING)
def test_every_method_is_restored_verified_patched_and_written_the_same_by_all(
    pair: tuple[Path, Path], tmp_path: Path, method: str
) -> None:
    record, _ = made(pair, method, threads=1)
    delta = tmp_path / "delta"
    payload = (delta / "delta.safetensors").read_bytes()
    assert record.numbers["delta_bytes"] == sum(path.stat().st_size for path in delta.iterdir())
    made(pair, method, threads=4)
    assert (delta / "delta.safetensors").read_bytes() == payload
    with backend.using("numpy"):
        made(pair, method)
    assert (delta / "delta.safetensors").read_bytes() == payload
    verify(delta, base=pair[0])
    restore(pair[0], delta, tmp_path / "restored")
    restored, base = open_checkpoint(tmp_path / "restored"), states()[0]
    del base["embed_tokens.weight"]  # of another shape: not in place
    stored = {name: kept for name, kept in open_delta(delta).load().items() if name in base}
    with patch.applied(base, stored):
        assert all(base[name].tobytes() == restored.raw(name).tobytes() for name in base)


@pytest.mark.parametrize("method", PRUNING)
@pytest.mark.parametrize("row_dtype", ["F32", "F16"])
def test_one_divisor_a_row_with_every_mask(
    pair: tuple[Path, Path], tmp_path: Path, method: str, row_dtype: Any
) -> None:
    """base + value / q_row, entry by entry; F16 rows take two bytes each."""
    _, found = made(pair, method)
    delta, wide = tmp_path / "delta", {"F32": np.float32, "F16": np.float16}[row_dtype]
    rng = np.random.default_rng(3)
    divisors = {name: rng.uniform(0.01, 2, states()[0][name].shape[0]) for name in found}
    record = rescale(delta, divide_by=divisors, row_dtype=row_dtype)
    verify(delta, base=pair[0])
    restore(pair[0], delta, tmp_path / "restored")
    opened, base = open_checkpoint(tmp_path / "restored"), states()[0]
    for name, tensor in found.items():
        expected = base[name].copy()
        by_row = divisors[name].astype(wide).astype(np.float32)
        kept = np.array(kept_of(tensor))
        moved = expected.ravel()[kept].astype(np.float32) + tensor.values / by_row[kept // (expected[0].size)]
        expected.ravel()[kept] = moved.astype(expected.dtype)
        assert opened.raw(name).tobytes()[: expected.nbytes] == expected.tobytes()
    least = sum(divisor.size for divisor in divisors.values()) * (2 if row_dtype == "F16" else 4)
    assert least < record.numbers["scales_bytes"] < least + 150 * len(found) + 400


@pytest.mark.parametrize("divisor", [1e-9, 70_000.0])
def test_row_divisors_that_float16_cannot_hold_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, divisor: float
) -> None:
    made(pair, "wanda")
    before = (tmp_path / "delta" / "scales.safetensors").read_bytes()
    rows = np.ones(70)
    rows[9] = divisor
    text = rf"layer\.weight: is {divisor}, expected a positive, finite number \(in float16 too\)"
    with pytest.raises(SettingError, match=text):
        rescale(tmp_path / "delta", divide_by={"layer.weight": rows}, row_dtype="F16")
    assert (tmp_path / "delta" / "scales.safetensors").read_bytes() == before
    rescale(tmp_path / "delta", divide_by={"layer.weight": rows})


@pytest.mark.parametrize("method", [name for name in PRUNING if name != "columns-magnitude"])
def test_dare_divides_by_the_kept_share_whatever_the_method(pair: tuple[Path, Path], method: str) -> None:
    made(pair, method, columns=0.4 if issubclass(METHODS[method], Structural) else None)
    delta = pair[0].parent / "delta"
    before = (delta / "scales.safetensors").read_bytes()
    rescale(delta, divide_by="dare")
    opened = open_delta(delta)
    for name, row in inspect(delta).tensors.items():
        if "kept" in row:
            share = row["kept"] / row["entries"]
            assert float(opened.divisors[name]) == pytest.approx(share, rel=6 / row["kept"] ** 0.5)
    if method in ("random", "bernoulli", "columns"):
        assert (delta / "scales.safetensors").read_bytes() == before


@pytest.mark.parametrize("method", PRUNING)
@pytest.mark.parametrize("keep", [0.01, 0.2])
def test_a_stored_tensor_knows_what_it_is_divided_by_unless_told(
    pair: tuple[Path, Path], method: str, keep: float
) -> None:
    """The plan's divisor, found again from the manifest alone, to the last bit."""
    made(pair, method, keep=keep)
    opened = open_delta(pair[0].parent / "delta")
    entries = {n: entry for n, entry in opened.manifest.tensors.items() if isinstance(entry, PrunedTensor)}
    assert {n: entry.default_divisor for n, entry in entries.items()} == {n: float(opened.divisors[n]) for n in entries}


@pytest.mark.parametrize("method", PRUNING)
@pytest.mark.parametrize("values", ["4bit", "f32"])
def test_a_budget_holds_for_every_method(tmp_path: Path, method: str, values: str) -> None:
    rng = np.random.default_rng(0)
    base = {"a.weight": rng.standard_normal((400, 300), np.float32), "b.weight": np.ones((200, 500), np.float32)}
    tuned = {name: array + rng.standard_normal(array.shape, np.float32) for name, array in base.items()}
    folders = write_checkpoint(tmp_path / "base", base), write_checkpoint(tmp_path / "tuned", tuned)
    norms = {"a.weight": InputNorms(values=np.ones(300, np.float32))}
    calibration = norms if issubclass(METHODS[method], Calibrated) else None
    columns = 0.3 if issubclass(METHODS[method], Structural) else None
    for budget in (12_000, 60_000):
        record = prune(
            *folders, tmp_path / "d", budget=budget, method=method, values=values, pack=False, force=True,
            calibration=calibration, columns=columns,
        )  # fmt: skip
        assert 0.6 * budget < record.numbers["delta_bytes"] <= budget


def test_the_entropy_bound_counts_what_is_chosen(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """log2 of the number of choices: columns here, positions there, nothing for random entries."""
    found = {}
    for method in ("random", "columns", "wanda"):
        made(pair, method, keep=0.05, columns=0.5 if method == "columns" else None, values="sign", pack=False)
        found[method] = inspect(tmp_path / "delta").tensors["layer.weight"]
    kept = found["random"]["kept"]
    assert kept == found["columns"]["kept"] == found["wanda"]["kept"] == 210
    chosen = sum(np.log2(60 - i) - np.log2(i + 1) for i in range(30)) / 8
    assert found["columns"]["columns"] == 30
    assert found["columns"]["bound_bytes"] - found["random"]["bound_bytes"] == pytest.approx(chosen, abs=30)
    listed = sum(np.log2(4200 - i) - np.log2(i + 1) for i in range(kept)) / 8
    assert found["wanda"]["bound_bytes"] - found["random"]["bound_bytes"] == pytest.approx(listed, abs=30)
    assert found["wanda"]["bytes"] <= found["wanda"]["bound_bytes"] * 1.1 + 20


@pytest.mark.parametrize("by_row", [False, True])
def test_a_small_product_gives_what_the_restored_layer_does(
    pair: tuple[Path, Path], tmp_path: Path, *, by_row: bool
) -> None:
    """x W' = x W + the product of the chosen columns, to the rounding of float32 sums."""
    made(pair, "columns", columns=0.2)
    if by_row:
        rows = np.linspace(0.05, 1, 70)
        rescale(tmp_path / "delta", divide_by={"layer.weight": rows})
    tensor = open_delta(tmp_path / "delta").load()["layer.weight"]
    assert isinstance(tensor, Pruned)
    restore(pair[0], tmp_path / "delta", tmp_path / "restored")
    restored = np.array(open_checkpoint(tmp_path / "restored").bits("layer.weight", 0, 4200)).view(np.float32)
    base = states()[0]["layer.weight"]
    x = np.random.default_rng(5).standard_normal((2, 9, 60), np.float32)
    columns, block = column_block(tensor)
    assert (columns.shape, block.shape, block.dtype) == ((12,), (70, 12), np.float32)
    assert np.count_nonzero(block) <= tensor.mask.keep
    found = x @ base.T + column_product(x, columns, block)
    expected = x.astype(float) @ restored.reshape(70, 60).T.astype(float)
    scale = np.abs(x).astype(float) @ (np.abs(base) + np.abs(restored.reshape(70, 60) - base)).T.astype(float)
    assert np.all(np.abs(found - expected) <= 4 * 60 * np.finfo(np.float32).eps * scale)
    assert np.abs(expected - x @ base.T).max() > 100 * np.abs(found - expected).max()


def test_only_columns_make_a_block(pair: tuple[Path, Path]) -> None:
    _, found = made(pair, "magnitude")
    with pytest.raises(ValueError, match="codedpositions mask has no chosen columns"):
        column_block(found["layer.weight"])


@pytest.mark.parametrize(
    ("norms", "text"),
    [
        (
            np.ones(61, np.float32),
            r"layer\.weight: has shape \(70, 60\), its inputs \(61,\), expected one norm an input",
        ),
        (np.full(60, np.inf, np.float32), r"layer\.weight: an input of it is not finite on the calibration text"),
        (np.full(60, np.nan, np.float32), r"layer\.weight: an input of it is not finite on the calibration text"),
    ],
)
def test_norms_that_cannot_be_are_refused(pair: tuple[Path, Path], norms: NDArray[Any], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        made(pair, "wanda", calibration={"layer.weight": InputNorms(values=norms)})
    assert not (pair[0].parent / "delta").exists()


def test_a_plan_file_mixes_methods(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(
        "tensors:\n"
        "  - {match: 'layer.*', method: wanda-rows, keep: 0.1}\n"
        "  - {match: 'half.*', method: columns, columns: 0.5}\n"
    )
    record = prune(*pair, tmp_path / "d", keep=0.05, plan=tmp_path / "plan.yaml", calibration=NORMS)
    assert record.tensors["layer.weight"]["score"] == "wanda"
    assert inspect(tmp_path / "d").tensors["half.weight"]["columns"] == 40
    assert json.loads(record.line())["tensors"]["experts"]["mask"] == "stratified"


def test_a_delta_of_a_newer_writer_is_refused_by_its_feature(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader without these features says."""
    for method, feature in (("wanda", "wanda"), ("columns", "columns")):
        made(pair, method)
        older = frozenset({"stratified", "bernoulli", "listed", "zstd", "resized"})
        monkeypatch.setattr("deltagram.store.manifest.FEATURES", older)
        with pytest.raises(Exception, match=f"it needs the feature '{feature}', which this deltagram does not know"):
            open_delta(tmp_path / "delta")
        monkeypatch.undo()
