"""Laws of whole tensors whose entries are coded: error bounds of each codec, readers that agree, refusals, sizes."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from checkpoints import write_checkpoint
from deltagram.arrays import Spec
from deltagram.delta import patch
from deltagram.delta.methods import Random
from deltagram.delta.plan import Plan, Rule, make_plan
from deltagram.delta.values import VALUES, Codebook, Floats, Uniform, fit_codebook, histogram
from deltagram.errors import FormatError, PlanError
from deltagram.jobs import inspect, prune, restore, verify
from deltagram.store.checkpoint import open_checkpoint
from deltagram.store.deltafile import open_delta
from deltagram.store.outline import outline
from deltagram.store.tensors import WholeTensor
from desk import Desk

FLOATS: dict[str, Any] = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64}
EPS = {"F16": 2.0**-11, "BF16": 2.0**-8, "F32": 2.0**-24, "F64": 2.0**-53}  # half a step, relative
TINY = {name: float(ml_dtypes.finfo(kind).smallest_subnormal) for name, kind in FLOATS.items()}


def independent() -> ModuleType:
    """The reader made from docs/FORMAT.md alone."""
    name = "independent_reader"
    if name not in sys.modules:
        found = Path(__file__).parents[1] / "store" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, found)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


reader = independent()


def coded(folder: Path, head: NDArray[Any], values: str, *, base: NDArray[Any] | None = None, **options: Any) -> Path:
    """A delta in `folder` of a model with a coded `head`, and a base that has none unless it is given."""
    rest = {"body.weight": np.ones((4, 4), np.float32)}
    write_checkpoint(folder / "base", rest if base is None else {**rest, "head": base})
    write_checkpoint(folder / "tuned", {**rest, "head": head})
    (folder / "plan.yaml").write_text(json.dumps({"tensors": [{"match": "head", "form": "whole", "values": values}]}))
    prune(folder / "base", folder / "tuned", folder / "delta", plan=folder / "plan.yaml", force=True, **options)
    return folder / "delta"


def back(folder: Path, like: NDArray[Any]) -> NDArray[Any]:
    """The head as restore, `patch.Live` and the independent reader give it, which is the same to the bit."""
    restore(folder / "base", folder / "delta", folder / "back", force=True)
    written = bytes(open_checkpoint(folder / "back").raw("head"))
    state = {"body.weight": np.ones((4, 4), np.float32), "head": np.zeros_like(like)}
    with patch.applied(state, open_delta(folder / "delta")):
        assert state["head"].tobytes() == written
    assert reader.restored(folder / "base", folder / "delta")["head"].data == written
    verify(folder / "delta")
    return np.frombuffer(written, like.dtype).reshape(like.shape)


def bounds(head: NDArray[Any], values: str) -> NDArray[np.float64]:
    """How far a decoded entry, before it is rounded to the tensor's dtype, may be from the entry; from the codec.

    Floats: half a step of the type. Uniform: half a step of the group's scale, which is the group's largest over
    `top` rounded to a bfloat16 (and may be shrunken to as little as a quarter where that lowers the squared error: then
    all that is known is that the group's squared error is not above that of half steps). One bit: the mean magnitude of
    the group in the place of each. Codebook: the distance to the nearest entry of the book that is fitted.
    """
    setting, x = VALUES[values], head.astype(np.float64).ravel()
    cut = np.abs(x) * EPS["F32"] + TINY["F32"]  # the way into float32
    if isinstance(setting, Floats):
        return cut + np.abs(x) * EPS[setting.dtype] + TINY[setting.dtype]
    if isinstance(setting, Codebook):
        narrow = head.astype(np.float32).ravel()
        book = fit_codebook(histogram(narrow), setting).astype(np.float64)
        near = np.abs(x[:, None] - book[None, :]).min(axis=1)
        return cut + near + np.abs(x) * EPS["F32"]
    found = np.empty_like(x)
    for first in range(0, x.size, setting.group):
        group = x[first : first + setting.group]
        largest = np.abs(group).max()
        if setting.bits == 1:
            mean = np.abs(group).mean()
            found[first : first + group.size] = np.abs(np.abs(group) - mean) + mean * (EPS["BF16"] + 64 * EPS["F32"])
            continue
        top = 2 ** (setting.bits - 1) - 1
        step = largest / top * (0.5 + top * EPS["BF16"])
        found[first : first + group.size] = step * (1 if setting.bits == 8 else np.sqrt(group.size))
    return cut + found * (1 + 1e-5) + 2.0**-125  # scales below the smallest normal number are zero


def test_all_codecs_are_bounded() -> None:
    assert {type(setting) for setting in VALUES.values()} == {Floats, Uniform, Codebook}


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("values", VALUES)
def test_entries_come_back_within_the_codec_s_error(tmp_path: Path, values: str, dtype: str, *, pack: bool) -> None:
    head = (np.random.default_rng(len(values)).standard_normal((13, 29)) * 0.3).astype(FLOATS[dtype])
    coded(tmp_path, head, values, pack=pack)
    found, limit = back(tmp_path, head), bounds(head, values)
    limit = limit + (np.abs(head.astype(np.float64).ravel()) + limit) * EPS[dtype] + TINY[dtype]
    assert (np.abs(found.astype(np.float64) - head.astype(np.float64)).ravel() <= limit).all()
    manifest = open_delta(tmp_path / "delta").manifest
    assert "coded" in manifest.requires
    assert isinstance(manifest.tensors["head"], WholeTensor)


small = st.lists(st.floats(-1e4, 1e4, width=16), min_size=1, max_size=150)


@pytest.mark.parametrize("values", ["f32", "bf16", "8bit", "3bit", "sign", "codebook3"])
@given(small, st.sampled_from(list(FLOATS)))
@settings(max_examples=12, deadline=None)
def test_any_finite_entries(
    tmp_path_factory: pytest.TempPathFactory, values: str, numbers: list[float], dtype: str
) -> None:
    folder, head = tmp_path_factory.mktemp("coded"), np.array(numbers).astype(FLOATS[dtype])
    coded(folder, head, values)
    found, limit = back(folder, head), bounds(head, values)
    limit = limit + (np.abs(head.astype(np.float64)) + limit) * EPS[dtype] + TINY[dtype]
    assert (np.abs(found.astype(np.float64) - head.astype(np.float64)) <= limit).all()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_f32_keeps_every_finite_pattern(tmp_path: Path, dtype: str) -> None:
    """Zeros of both signs, subnormals and the largest numbers too; over more than one block."""
    info = ml_dtypes.finfo(FLOATS[dtype])
    ends = np.array([0.0, info.smallest_subnormal, info.smallest_normal, info.max, 1.0], FLOATS[dtype])
    head = np.resize(np.concatenate([ends, -ends]), (70_001,)).astype(FLOATS[dtype])
    coded(tmp_path, head, "f32")
    assert back(tmp_path, head).tobytes() == head.tobytes()


def test_f64_is_rounded_to_the_codec_and_comes_back_as_that(tmp_path: Path) -> None:
    head = np.array([1 / 3, 1 + 2.0**-30, -1e-300, 1e30])
    coded(tmp_path, head, "f32")
    assert back(tmp_path, head).tolist() == head.astype(np.float32).astype(np.float64).tolist()


@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 5)])
def test_any_shape_with_an_entry(tmp_path: Path, shape: tuple[int, ...]) -> None:
    head = np.full(shape, 0.75, np.float32)
    coded(tmp_path, head, "bf16", base=head + np.float32(1))
    assert back(tmp_path, head).tolist() == head.tolist()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    head = np.random.default_rng(1).standard_normal((300, 500)).astype(np.float32)
    for name, threads in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        coded(tmp_path / name, head, "4bit", threads=threads, base=head * 2)
    files = [(tmp_path / name / "delta" / "delta.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_what_equals_the_base_is_not_coded(tmp_path: Path) -> None:
    """Also where no code could hold it."""
    head = np.array([[np.nan, 1.0]], np.float32)
    coded(tmp_path, head, "4bit", base=head.copy())
    opened = open_delta(tmp_path / "delta")
    assert opened.manifest.tensors["head"].form == "same"
    assert opened.manifest.requires == []


LARGE = {
    ("F32", "f16", 7e4): "an entry is too large for F16",
    ("F32", "bf16", 3.4e38): "an entry is too large for BF16",
    ("F32", "2bit", 3.4028e38): "a group of values is too large for a bfloat16 scale",
    ("F32", "codebook4", 3.4e38): "an entry is too large for a codebook",
    ("F64", "f32", 1e39): "an entry overflows float32",
    ("F64", "4bit", 1e39): "an entry overflows float32",
    ("F16", "bf16", 65504.0): "an entry, once coded, is too large for F16",
    ("F16", "2bit", 65504.0): "an entry, once coded, is too large for F16",
    ("F16", "codebook2", 65504.0): "an entry, once coded, is too large for F16",
}


@pytest.mark.parametrize(("dtype", "values", "number"), LARGE)
def test_entries_too_large_for_the_codec_are_refused(tmp_path: Path, dtype: str, values: str, number: float) -> None:
    """What the delta could not give back included: nothing is written that restore refuses."""
    with pytest.raises(PlanError) as caught:
        coded(tmp_path, np.full(70, number, FLOATS[dtype]), values)
    fix = "leave out its values, so that it is stored as it is"
    assert str(caught.value) == f"head: {LARGE[dtype, values, number]}; {fix}"
    assert not (tmp_path / "delta").exists()


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("values", ["f32", "4bit", "codebook3"])
def test_nan_and_infinity_are_refused(tmp_path: Path, values: str, dtype: str, number: float) -> None:
    with pytest.raises(PlanError, match="head: holds NaN or infinity, which no code keeps; leave out its values, so"):
        coded(tmp_path, np.array([1.0, number, 2.0], FLOATS[dtype]), values)
    assert not (tmp_path / "delta").exists()


@pytest.mark.parametrize(
    ("head", "is_"),
    [
        (np.arange(6, dtype=np.int64), r"I64 \(6,\)"),
        (np.zeros(3, np.bool_), r"BOOL \(3,\)"),
        (np.zeros((0, 4), np.float32), r"F32 \(0, 4\)"),
    ],
    ids=["integers", "truths", "empty"],
)
def test_what_has_no_values_is_refused_before_any_work(tmp_path: Path, head: NDArray[Any], is_: str) -> None:
    with pytest.raises(PlanError, match=f"head: {is_} has no values to code; leave out its values, so that it is sto"):
        coded(tmp_path, head, "8bit")


def test_the_last_rule_with_a_form_decides() -> None:
    spec = {"head": Spec(dtype="F32", shape=(2, 2)), "body": Spec(dtype="F32", shape=(9, 9))}

    def made(*rules: Rule) -> bool:
        plan = make_plan(spec, spec, method=Random(keep=0.1), values=VALUES["bf16"], rules=rules)
        return {entry.name: entry for entry in plan.entries}["head"].coded

    code = Rule(match="head", form="whole", values=VALUES["8bit"], source="a")
    assert made(code)
    assert not made(code, Rule(match="head", form="whole", source="--whole 'head'"))
    assert not made(Rule(match="head", values=VALUES["8bit"], source="a"))


def planned(head: NDArray[Any], dtype: str, values: str) -> Plan:
    tuned = {"head": Spec(dtype=dtype, shape=head.shape), "body.weight": Spec(dtype="F32", shape=(4, 4))}
    rule = Rule(match="head", form="whole", values=VALUES[values], source="rule")
    base = {"body.weight": tuned["body.weight"]}
    return make_plan(base, tuned, method=Random(keep=0.01), values=VALUES["bf16"], rules=[rule])


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("values", VALUES)
def test_bounds_of_bytes_hold(tmp_path: Path, dtype: str, values: str) -> None:
    """Without packing the payload is what the plan says, but for its slack; the outline is as long as the entry."""
    head = np.random.default_rng(3).standard_normal((37, 41)).astype(FLOATS[dtype])
    plan = planned(head, dtype, values)
    entry = {found.name: found for found in plan.entries}["head"]
    for pack in (False, True):
        opened = open_delta(coded(tmp_path, head, values, pack=pack))
        stored, made = opened.manifest.tensors["head"], outline(entry, pack=pack)
        assert len(made.model_dump_json()) >= len(stored.model_dump_json())
        assert isinstance(made, WholeTensor)
        assert isinstance(stored, WholeTensor)
        assert made.values == stored.values
        assert opened.nbytes <= plan.bytes_bound()
        if not pack:
            assert opened.stored_bytes("head") == VALUES[values].nbytes(head.size) == entry.bytes_bound() - 16


def test_inspect_and_prune_say_how_a_tensor_is_coded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = np.random.default_rng(3).standard_normal((200, 300)).astype(np.float32)
    record = inspect(coded(tmp_path, head, "8bit", pack=False))
    row, opened = record.tensors["head"], open_delta(tmp_path / "delta")
    assert row["form"] == "whole"
    assert row["values"] == {"codec": "uniform", "bits": 8, "group": 64}
    assert row["bytes"] == opened.stored_bytes("head") == VALUES["8bit"].nbytes(head.size)
    assert row["bound_bytes"] == entropy(opened.parts["head:values"].data, head.size)
    assert row["bound_bytes"] < row["bytes"]
    assert row["rms"] == pytest.approx(float(np.sqrt((head.astype(np.float64) ** 2).mean())), rel=1e-3)
    assert record.tensors["body.weight"]["form"] == "same"
    assert record.numbers["forms"] == {"whole": 1, "same": 1}
    monkeypatch.chdir(tmp_path)
    desk = Desk(folder=tmp_path, capture=capsys, patch=monkeypatch)
    assert "1 same, 1 whole in 8bit" in desk.does("prune base tuned again --plan plan.yaml")
    said = json.loads(desk.does("prune base tuned told --plan plan.yaml --json"))
    assert said["tensors"]["head"] == {"form": "whole", "values": "8bit"}
    line = next(line for line in desk.does("inspect again --tensors").splitlines() if line.startswith("head"))
    assert "uniform 8" in line
    assert f"{row['bound_bytes']:,}" in line


def entropy(part: memoryview, count: int) -> int:
    """Order-0 entropy of low and high scale bytes and of codes, in bytes, from the layout of section 7."""
    groups = -(-count // 64)
    scales, codes = np.frombuffer(part[: 2 * groups], np.uint8), np.frombuffer(part[2 * groups :], np.uint8)
    bits = 0.0
    for symbols in (scales[::2], scales[1::2], codes):
        shares = np.unique(symbols, return_counts=True)[1] / symbols.size
        bits -= symbols.size * float((shares * np.log2(shares)).sum())
    return int(np.ceil(bits / 8))


def test_a_damaged_coded_tensor_is_refused(tmp_path: Path) -> None:
    coded(tmp_path, np.linspace(-1, 1, 500).astype(np.float32), "8bit")
    path = tmp_path / "delta" / "delta.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(FormatError, match="head: its payload has digest"):
        verify(tmp_path / "delta")
    with pytest.raises(FormatError, match="head: its payload has digest"):
        restore(tmp_path / "base", tmp_path / "delta", tmp_path / "back")
