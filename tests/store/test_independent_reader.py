"""A reader made from docs/FORMAT.md alone restores what `deltagram.jobs.restore` restores, bit for bit."""

import ast
import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zstandard
from blake3 import blake3

from deltagram import jobs
from deltagram.delta.backend import using
from deltagram.delta.scores import InputNorms

READER = Path(__file__).with_name("independent_reader.py")


def load(name: str) -> ModuleType:
    """A module beside this one."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


tampering = load("tampering")
reader = tampering.reader

FLOATS = {"F16": np.dtype("f2"), "BF16": np.dtype(ml_dtypes.bfloat16), "F32": np.dtype("f4"), "F64": np.dtype("f8")}
CODECS = ["f32", "bf16", "f16", *(f"{bits}bit" for bits in range(8, 1, -1)), "sign"]
CODECS += [f"codebook{bits}" for bits in (8, 4, 3, 2)]
METHODS = ["random", "bernoulli", "magnitude", "magnitude-rows", "columns", "columns-magnitude"]

Given = tuple[str, tuple[int, ...], bytes]
Model = dict[str, Given]


def given(dtype: str, array: Any) -> Given:
    array = np.asarray(array)
    with np.errstate(over="ignore"):
        array = array.astype(FLOATS[dtype]) if dtype in FLOATS else array
    return dtype, array.shape, array.tobytes()


def write(path: Path, model: Model) -> Path:
    """A safetensors file in a directory with a config.json."""
    header: dict[str, object] = {}
    data = b""
    for name, (dtype, shape, raw) in model.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (path / "config.json").write_text('{"model_type": "none"}')
    return path


def pair(rng: np.random.Generator, shape: tuple[int, ...], base: str, tuned: str, step: float = 0.01) -> list[Given]:
    start = rng.normal(size=shape)
    return [given(base, start), given(tuned, start + step * rng.normal(size=shape))]


def models() -> tuple[Model, Model]:
    """Every float dtype against every other, and everything that is not a matrix that changed."""
    rng = np.random.default_rng(0)
    base, tuned = {}, {}
    for one, kind in FLOATS.items():
        for other in FLOATS:
            name = f"floats.{one}.{other}"
            base[name], tuned[name] = pair(rng, (23, 17), one, other)
            name = f"same.{one}.{other}"
            base[name] = given(one, rng.normal(size=(7, 5)))
            tuned[name] = given(other, np.frombuffer(base[name][2], kind).reshape(7, 5))
    shapes = {"cube": (3, 4, 50), "row": (1, 300), "column": (300, 1), "vector": (400,), "number": (), "norm": (16,)}
    for name, shape in shapes.items():
        base[name], tuned[name] = pair(rng, shape, "F32", "BF16")
    for dtype, kind in {"I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1", "U16": "u2"}.items():
        base[f"int.{dtype}"] = given(dtype, rng.integers(0, 99, (6, 9)).astype(kind))
        tuned[f"int.{dtype}"] = given(dtype, rng.integers(0, 99, (6, 9)).astype(kind))
    for dtype in ("BOOL", "F8_E4M3", "F8_E5M2"):
        base[f"bytes.{dtype}"] = dtype, (40,), rng.integers(0, 2, 40).astype("u1").tobytes()
        tuned[f"bytes.{dtype}"] = dtype, (40,), rng.integers(0, 2, 40).astype("u1").tobytes()
    base["int.changed"], tuned["int.changed"] = given("I64", np.arange(5)), given("I32", np.arange(5, dtype="i4"))
    base["empty"], tuned["empty"] = given("F32", np.zeros((0, 4))), given("F32", np.zeros((0, 4)))
    base["emptied"], tuned["emptied"] = given("F32", np.ones((5, 4))), given("F32", np.zeros((0, 4)))
    base["filled"], tuned["filled"] = given("F32", np.zeros((0, 4))), given("F32", np.ones((5, 4)))
    base["up"], _ = pair(rng, (30, 8), "F32", "F32")
    base["down"], _ = pair(rng, (40, 8), "BF16", "BF16")
    for name, rows in {"up": 41, "down": 33}.items():
        dtype, shape, raw = base[name]
        start = np.resize(np.frombuffer(raw, FLOATS[dtype]).astype("f4"), (rows, 8))
        tuned[name] = given("F32" if name == "up" else "F16", start + 0.01 * rng.normal(size=start.shape))
    base["dropped.1"], base["dropped.2"] = given("F32", np.ones((3, 3))), given("I64", np.ones(3, "i8"))
    tuned["new"] = given("F16", rng.normal(size=(4, 4)))
    tuned["ünï-\U0001f600:colon"] = given("F32", rng.normal(size=4))
    base["old.a"], tuned["wrapped.a"] = pair(rng, (20, 20), "F32", "F32")
    base["old.b"] = tuned["wrapped.b"] = given("F32", rng.normal(size=(20, 20)))
    return base, tuned


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("models")
    base, tuned = models()
    return write(place / "base", base), write(place / "tuned", tuned)


def plain(tensors: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (tensor.dtype, tensor.shape, tensor.data) for name, tensor in tensors.items()}


def compare(base: Path, delta: Path, out: Path) -> dict[str, Any]:
    """Both restore the same; returns the manifest's tensors."""
    jobs.restore(base, delta, out)
    written, found = plain(reader.read_checkpoint(out)), plain(reader.restored(base, delta))
    assert set(found) == set(written)
    assert [name for name in found if found[name] != written[name]] == []
    manifest: dict[str, Any] = json.loads(reader.read_parts(delta)[0])
    return manifest["tensors"]


PLAN = """
tensors:
- {match: up, form: resized}
- {match: down, form: resized}
- {match: vector, form: pruned}
- {match: number, form: pruned}
"""


def check(folders: tuple[Path, Path], place: Path, **settings: Any) -> dict[str, Any]:
    settings.setdefault("rename", [("old.", "wrapped.")])
    settings.setdefault("whole", ["filled", "emptied"])
    if settings["rename"] and settings.get("method") != "exact":
        settings["plan"] = place / "plan.yaml"
        settings["plan"].write_text(PLAN)
    jobs.prune(*folders, place / "delta", **settings)
    return compare(folders[0], place / "delta", place / "out")


def test_it_imports_nothing_of_the_library() -> None:
    names = set()
    for node in ast.walk(ast.parse(READER.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    assert not [name for name in names if name.startswith("deltagram")]


def test_its_philox_knows_the_answer() -> None:
    assert [f"{word:08x}" for word in reader.philox(0, 0, 4)] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", CODECS)
def test_every_codec_and_mask(
    folders: tuple[Path, Path], tmp_path: Path, values: str, method: str, *, pack: bool
) -> None:
    tensors = check(folders, tmp_path, keep=0.2, method=method, values=values, pack=pack, seed=len(values) - 4)
    assert {entry["form"] for entry in tensors.values()} == {"whole", "same", "pruned", "resized"}
    assert tensors["wrapped.a"]["base_name"] == "old.a"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep", [0.01, 0.05, 0.3, 0.5, 0.77, 0.999, 1.0])
def test_every_share(folders: tuple[Path, Path], tmp_path: Path, method: str, keep: float) -> None:
    check(folders, tmp_path, keep=keep, method=method, seed=-(1 << 63) if keep == 1 else (1 << 63) - 1)


def test_a_compressed_manifest(folders: tuple[Path, Path], tmp_path: Path) -> None:
    check(folders, tmp_path, keep=0.1, compact=True)


def test_exact(folders: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = check(folders, tmp_path, method="exact")
    assert {entry["form"] for entry in tensors.values()} == {"whole", "same", "exact"}


@pytest.mark.parametrize("method", ["random", "exact"])
@pytest.mark.parametrize("shard_bytes", [300, 2_000])
def test_shards(folders: tuple[Path, Path], tmp_path: Path, method: str, shard_bytes: int) -> None:
    keep = None if method == "exact" else 0.5
    check(folders, tmp_path, keep=keep, method=method, shard_bytes=shard_bytes)
    assert len(list((tmp_path / "delta").glob("delta-*.safetensors"))) > 1


@pytest.mark.parametrize("divide_by", [0.25, 3e-5, 1 / 3])
def test_divisors(folders: tuple[Path, Path], tmp_path: Path, divide_by: float) -> None:
    check(folders, tmp_path, keep=0.5, divide_by=divide_by)


def row_divisors(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A number for each row of the pruned part of each tensor that can have one; all are exact in F16."""
    rng = np.random.default_rng(1)
    found = {}
    for name, entry in tensors.items():
        shape = entry["shape"]
        if entry["form"] in ("pruned", "resized") and len(shape) > 1:
            found[name] = rng.integers(1, 2048, min(shape[0], entry.get("base_shape", shape)[0])) / 1024
    return found


@pytest.mark.parametrize("method", METHODS)
def test_rescaled_by_row(folders: tuple[Path, Path], tmp_path: Path, method: str) -> None:
    divisors = row_divisors(check(folders, tmp_path, keep=0.3, method=method))
    jobs.rescale(tmp_path / "delta", divide_by={name: numbers / 3 for name, numbers in divisors.items()})
    compare(folders[0], tmp_path / "delta", tmp_path / "again")
    scales = read_scales(tmp_path / "delta")
    assert {scales[name].dtype for name in divisors} == {"F32"}
    assert {scales[name].dtype for name in set(scales) - set(divisors)} == {"F64"}


def read_scales(delta: Path) -> dict[str, Any]:
    tensors: dict[str, Any] = reader.read_file(delta / "scales.safetensors", canonical=True)[1]
    return tensors


def test_float16_divisors_of_another_writer(folders: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = check(folders, tmp_path, keep=0.3)
    delta, divisors = tmp_path / "delta", row_divisors(tensors)
    scales = read_scales(delta)
    for name, numbers in divisors.items():
        scales[name] = reader.Tensor("F16", numbers.shape, numbers.astype("<f2").tobytes())
    manifest = blake3(reader.read_parts(delta)[0].encode()).hexdigest()
    content = blake3(b"".join(tensor.digest(name) for name, tensor in scales.items())).hexdigest()
    header = reader.padded(reader.anew({"format": "deltagram-scales", "manifest": manifest, "digest": content}, scales))
    data = b"".join(tensor.data for tensor in scales.values())
    (delta / "scales.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    compare(folders[0], delta, tmp_path / "again")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tensors that keep more than one block of 65,536 entries."""
    rng = np.random.default_rng(2)
    place = tmp_path_factory.mktemp("large")
    base, tuned = {}, {}
    base["a"], tuned["a"] = pair(rng, (301, 701), "BF16", "BF16")
    base["b"], tuned["b"] = pair(rng, (2, 131_072), "F32", "F16")
    return write(place / "base", base), write(place / "tuned", tuned)


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("values", ["f32", "bf16", "8bit", "5bit", "sign", "codebook4", "codebook3"])
def test_several_blocks(large: tuple[Path, Path], tmp_path: Path, values: str, *, pack: bool) -> None:
    method = METHODS[len(values) % len(METHODS)]
    tensors = check(large, tmp_path, keep=0.7, method=method, values=values, pack=pack, rename=[], whole=[])
    assert all(entry["mask"]["keep"] > 2 * reader.BLOCK for entry in tensors.values())


def test_several_blocks_exactly(large: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = check(large, tmp_path, method="exact", rename=[], whole=[])
    assert {entry["form"] for entry in tensors.values()} == {"exact"}


def patterned(rows: Sequence[int], period: int, repeats: int) -> np.ndarray:
    mask = np.zeros((repeats, period))
    mask[:, list(rows)] = 1
    return mask


@pytest.mark.parametrize("repeats", [400, 9_000])
@pytest.mark.parametrize(
    ("coding", "rows", "period"),
    [
        ("golomb", [], 97),
        ("gaps", [5], 97),
        ("gaps", range(97), 97),
        ("bitmap", [0, 1, 2, 4, 7, 8, 9, 11, 15, 16, 19, 20, 21, 23, 24, 25, 28, 30, 31, 33, 34], 35),
    ],
)
def test_listed_codings(tmp_path: Path, coding: str, rows: Sequence[int], period: int, repeats: int) -> None:
    """Positions that one coding holds better than the others, in one block and in several."""
    rng = np.random.default_rng(3)
    kept = patterned(rows, period, repeats) if rows else rng.random((repeats, period)) < 0.13
    base = given("F32", rng.normal(size=kept.shape))
    tuned = given("F32", np.frombuffer(base[2], "f4").reshape(kept.shape) + np.where(kept, 1.0, 1e-3))
    folders = write(tmp_path / "base", {"x": base}), write(tmp_path / "tuned", {"x": tuned})
    tensors = check(folders, tmp_path, keep=float(kept.mean()), method="magnitude", rename=[], whole=[])
    assert tensors["x"]["mask"]["coding"]["coding"] == coding


def patterns(dtype: str) -> np.ndarray:
    """Zeros, subnormals, largest numbers, infinities and NaN of a float type, both signs; and ties of narrower ones."""
    kind = FLOATS[dtype]
    info, word = ml_dtypes.finfo(kind), np.dtype(f"u{kind.itemsize}")
    special = np.array([0, info.smallest_subnormal, info.smallest_normal, info.max, np.inf, np.nan], kind).view(word)
    nan = np.array([special[4] | 1, special[5] | 3], word)
    found = np.concatenate([special, nan, np.arange(1, 3, dtype=word)])
    return np.concatenate([found, found | word.type(1 << (8 * word.itemsize - 1))]).view(kind)


def single(tmp_path: Path, base: Given, tuned: Given, **settings: Any) -> dict[str, Any]:
    folders = write(tmp_path / "base", {"x": base}), write(tmp_path / "tuned", {"x": tuned})
    tensors = check(folders, tmp_path, rename=[], whole=[], **settings)
    entry: dict[str, Any] = tensors["x"]
    return entry


@pytest.mark.parametrize("dtype", FLOATS)
def test_exact_keeps_every_pattern(tmp_path: Path, dtype: str) -> None:
    special = patterns(dtype)
    one, other = np.meshgrid(special, special)
    entry = single(tmp_path, given(dtype, one), given(dtype, other), method="exact")
    assert entry["form"] == "exact"


@pytest.mark.parametrize("tuned", FLOATS)
@pytest.mark.parametrize("base", FLOATS)
def test_exact_between_dtypes(tmp_path: Path, base: str, tuned: str) -> None:
    one, other = np.meshgrid(patterns(base), patterns(tuned))
    single(tmp_path, (base, one.shape, one.tobytes()), (tuned, other.shape, other.tobytes()), method="exact")


@pytest.mark.parametrize("tuned", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "left"])
def test_float64_is_rounded_once(tmp_path: Path, tuned: str, *, kept: bool) -> None:
    """Just above, at and just below the middle of two neighbours: a stop at float32 would lose the side.

    The kept entries get there by half a step from the base, the others are there in the base.
    """
    step = 2.0 ** -{"F16": 10, "BF16": 7, "F32": 23}[tuned]
    start = 1 + np.arange(64).reshape(16, 4) * step + np.array([-1, 0, 1, 2]) * 2.0**-45
    start += 0 if kept else step / 2
    settings = {"keep": 1.0, "divide_by": 2.0} if kept else {"keep": 0.25, "divide_by": 1.0}
    entry = single(tmp_path, given("F64", start), given(tuned, start + step), values="f32", **settings)
    assert entry["form"] == "pruned"


@pytest.mark.parametrize("tuned", FLOATS)
@pytest.mark.parametrize("base", FLOATS)
def test_the_same_but_for_its_dtype(tmp_path: Path, base: str, tuned: str) -> None:
    """Infinities and NaN included: what is rounded to the tuned tensor is not stored."""
    start = patterns(base).reshape(4, -1)
    rounded = reader.rounded(start, tuned)
    entry = single(tmp_path, (base, start.shape, start.tobytes()), (tuned, start.shape, rounded.tobytes()))
    assert entry["form"] == "same"


# What the document allows and this library does not write


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A base of one tensor of 90,000 entries, and the pieces of a delta of it."""
    place = tmp_path_factory.mktemp("simple")
    base, tuned = pair(np.random.default_rng(5), (300, 300), "F32", "BF16")
    folders = write(place / "base", {"x": base}), write(place / "tuned", {"x": tuned})
    jobs.prune(*folders, place / "delta", keep=0.01, values="f32", pack=False, divide_by=2.0)
    return place, tampering.take_apart(place / "delta")


SIZE = 90_000
KEEP = 70_000
SPARSE = np.random.default_rng(7).choice(SIZE, KEEP, replace=False)
SPARSE.sort()


def foreign(simple: tuple[Path, Any], tmp_path: Path, mask: Any, values: Any, parts: Mapping[str, Any]) -> None:
    """Both readers restore a delta with this mask and these parts; the check is added here."""
    place, kit = simple[0], simple[1].copy()
    entry = kit.manifest["tensors"]["x"] | {"mask": mask | {"check": "0" * 16}, "values": values}
    kit.manifest["tensors"]["x"] = entry
    kit.parts = {f"x:{suffix}": part for suffix, part in parts.items()}
    described = reader.read_entry("x", entry)
    described.parts = dict(parts)
    key = int.from_bytes(blake3(bytes(8) + b"x").digest()[:8], "little")
    kinds = {"stratified": reader.stratified, "bernoulli": reader.bernoulli, "listed": reader.listed}
    found = (kinds | {"columns": reader.columns})[mask["kind"]]
    entry["mask"]["check"] = blake3(found(described, key).astype("<u8").tobytes()).hexdigest()[:16]
    tampering.sign(kit)
    delta = shutil.copytree(place / "delta", tmp_path / "delta")
    tampering.put_together(kit, delta)
    jobs.verify(delta)
    compare(place / "base", delta, tmp_path / "out")
    with using("numpy"):
        compare(place / "base", delta, tmp_path / "numpy")


def floats(count: int) -> Any:
    array = np.random.default_rng(count).normal(size=count)
    return reader.Tensor("F32", (count,), array.astype("<f4").tobytes())


def bit_fields(codes: np.ndarray, width: int) -> bytes:
    grid = codes[:, None] >> np.arange(width, dtype=np.uint64) & np.uint64(1)
    return np.packbits(grid.astype(np.uint8).ravel(), bitorder="little").tobytes()


def stream(blocks: Sequence[Sequence[bytes]]) -> bytes:
    """A plane stream, every second plane stored as it is."""
    planes = [plane for block in blocks for plane in block]
    packed = [plane if i % 2 else min(zstandard.compress(plane), plane, key=len) for i, plane in enumerate(planes)]
    return np.array([len(plane) for plane in packed], "<u4").tobytes() + b"".join(packed)


def blocks_of(array: np.ndarray) -> list[np.ndarray]:
    return [array[first : first + reader.BLOCK] for first in range(0, len(array), reader.BLOCK)]


def coded(codes: np.ndarray, width: int, scales: np.ndarray | None, group: int, *, pack: bool) -> bytes:
    """Codes, with scales in front of them or in planes."""
    if not pack:
        return (b"" if scales is None else scales.tobytes()) + bit_fields(codes, width)
    planes = [
        [bit_fields(block, width) if width in (1, 2, 4, 8) else bytes(block.tolist())] for block in blocks_of(codes)
    ]
    if scales is not None:
        for number, block in enumerate(planes):
            first = number * (reader.BLOCK // group)
            words = scales[first : first + reader.BLOCK // group].view(np.uint8)
            block[:0] = [words[::2].tobytes(), words[1::2].tobytes()]
    return stream(planes)


STRATIFIED = {"kind": "stratified", "keep": KEEP}


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize(
    ("width", "group"), [(1, 1), (2, 16), (3, 65_536), (4, 2), (5, 64), (6, 1024), (7, 32_768), (8, 4)]
)
def test_uniform_codes_of_another_writer(
    simple: tuple[Path, Any], tmp_path: Path, width: int, group: int, *, pack: bool
) -> None:
    rng = np.random.default_rng(width)
    codes = rng.integers(0, (1 << width) - (width > 1), KEEP, dtype=np.uint64)
    scales = rng.normal(size=-(-KEEP // group)).astype(ml_dtypes.bfloat16).view("<u2")
    values = {"codec": "uniform", "bits": width, "group": group} | ({"pack": "zstd"} if pack else {})
    part = tampering.u8(coded(codes, width, scales, group, pack=pack))
    foreign(simple, tmp_path, STRATIFIED, values, {"values": part})


@pytest.mark.parametrize("pack", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("width", range(1, 9))
def test_codebooks_of_another_writer(simple: tuple[Path, Any], tmp_path: Path, width: int, *, pack: bool) -> None:
    rng = np.random.default_rng(width)
    codes = rng.integers(0, 1 << width, KEEP, dtype=np.uint64)
    book = rng.normal(size=1 << width).astype("<f4").tobytes()
    values = {"codec": "codebook", "bits": width} | ({"pack": "zstd"} if pack else {})
    part = tampering.u8(book + coded(codes, width, None, 1, pack=pack))
    foreign(simple, tmp_path, STRATIFIED, values, {"values": part})


def golomb(gaps: np.ndarray, divisor: int) -> bytes:
    """The three runs of section 10, as text of zeros and ones at first."""
    k = divisor.bit_length() - 1
    u = (1 << (k + 1)) - divisor
    heads, extra, unary = [], [], []
    for gap in gaps.tolist():
        quotient, r = divmod(gap, divisor)
        field = r if r < u else (r + u) // 2
        heads.append(f"{field:0{k}b}"[::-1] if k else "")
        extra.append("" if r < u else str((r + u) % 2))
        unary.append("0" * quotient + "1")
    bits = "".join(heads + extra + unary)
    return np.packbits(np.array(list(bits), "u1"), bitorder="little").tobytes()


def listed_part(divisor: int | None, coding: str) -> bytes:
    """SPARSE in blocks; the last stops at the tensor's end."""
    start, table, coded_blocks = 0, b"", []
    for block in blocks_of(SPARSE):
        last = bool(block[-1] == SPARSE[-1])
        stop = SIZE if last else int(block[-1]) + 1
        gaps = np.diff(block, prepend=start - 1) - 1
        if coding == "golomb":
            data = golomb(gaps, divisor or 1)
        elif coding == "gaps":
            width = max(1, -(-int(stop - start - block.size).bit_length() // 8))
            data = zstandard.compress(b"".join((gaps >> 8 * j & 255).astype("u1").tobytes() for j in range(width)))
        else:
            grid = np.zeros((-(-(stop - start) // 7), 8), np.uint8)
            grid[(block - start) // 7, (block - start) % 7] = 1
            data = zstandard.compress(np.packbits(grid, bitorder="little").tobytes())
        table += b"" if last else stop.to_bytes(8, "little") + len(data).to_bytes(4, "little")
        coded_blocks.append(data)
        start = stop
    return table + b"".join(coded_blocks)


@pytest.mark.parametrize(
    ("coding", "divisor"), [*(("golomb", m) for m in (1, 2, 3, 7, 64, SIZE)), ("gaps", None), ("bitmap", None)]
)
def test_positions_of_another_writer(
    simple: tuple[Path, Any], tmp_path: Path, coding: str, divisor: int | None
) -> None:
    described = {"coding": coding} | ({} if divisor is None else {"divisor": divisor})
    mask = {"kind": "listed", "keep": KEEP, "score": "magnitude", "coding": described}
    parts = {"positions": tampering.u8(listed_part(divisor, coding)), "values": floats(KEEP)}
    foreign(simple, tmp_path, mask, {"codec": "f32"}, parts)


@pytest.mark.parametrize("threshold", [0, 1, 1 << 31, (1 << 32) - 1, 1 << 32])
def test_bernoulli_masks_of_another_writer(simple: tuple[Path, Any], tmp_path: Path, threshold: int) -> None:
    key = int.from_bytes(blake3(bytes(8) + b"x").digest()[:8], "little")
    kept = reader.philox(key, 0, SIZE) < threshold
    counts = np.array([block.sum() for block in blocks_of(kept)], "<u4")
    mask = {"kind": "bernoulli", "threshold": threshold, "keep": int(kept.sum())}
    parts = {"counts": reader.Tensor("U32", counts.shape, counts.tobytes()), "values": floats(int(kept.sum()))}
    foreign(simple, tmp_path, mask, {"codec": "f32"}, parts)


@pytest.mark.parametrize("keep", [1, 2, 3, SIZE - 1, SIZE])
def test_stratified_masks_of_another_writer(simple: tuple[Path, Any], tmp_path: Path, keep: int) -> None:
    foreign(simple, tmp_path, {"kind": "stratified", "keep": keep}, {"codec": "f32"}, {"values": floats(keep)})


@pytest.mark.parametrize("score", ["random", "magnitude", "wanda"])
@pytest.mark.parametrize("threshold", [None, 0, 1 << 31, 1 << 32])
@pytest.mark.parametrize("chosen", [[0], [299], [3, 4, 250], range(300), range(0, 300, 2)], ids=len)
def test_columns_of_another_writer(
    simple: tuple[Path, Any], tmp_path: Path, chosen: Sequence[int], threshold: int | None, score: str
) -> None:
    columns, size = np.array(chosen, "<u4"), 300 * len(chosen)
    parts = {"columns": reader.Tensor("U32", columns.shape, columns.tobytes())}
    mask: dict[str, Any] = {"kind": "columns", "columns": len(chosen), "score": score}
    keep = size // 7
    if threshold is not None:
        key = int.from_bytes(blake3(bytes(8) + b"x").digest()[:8], "little")
        kept = reader.philox(key, 0, size) < threshold
        counts = np.array([block.sum() for block in blocks_of(kept)], "<u4")
        mask |= {"threshold": threshold}
        parts["counts"], keep = reader.Tensor("U32", counts.shape, counts.tobytes()), int(kept.sum())
    foreign(simple, tmp_path, mask | {"keep": keep}, {"codec": "f32"}, parts | {"values": floats(keep)})


@pytest.mark.parametrize("rows", [False, True])
def test_positions_chosen_by_inputs(folders: tuple[Path, Path], tmp_path: Path, *, rows: bool) -> None:
    """WANDA by norms at hand; matrices only, and what has no norms is said to be chosen by magnitude."""
    shapes = {name: tensor.shape for name, tensor in reader.read_checkpoint(folders[1]).items()}
    rng = np.random.default_rng(8)
    norms = {
        name: InputNorms(values=rng.random(shape[1], np.float32))
        for name, shape in shapes.items()
        if len(shape) == 2 and name not in ("filled", "emptied")
    }
    del norms["wrapped.a"]
    tensors = check(folders, tmp_path, keep=0.1, method="wanda-rows" if rows else "wanda", calibration=norms)
    scores = {name: entry["mask"]["score"] for name, entry in tensors.items() if "mask" in entry}
    assert {name for name, score in scores.items() if score == "magnitude"} == {"wrapped.a", "vector", "number", "cube"}
    assert "wanda" in json.loads(reader.read_parts(tmp_path / "delta")[0])["requires"]
