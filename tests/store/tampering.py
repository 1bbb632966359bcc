"""Deltas taken apart and put together again with all digests right: what a hostile writer can do."""

import contextlib
import copy
import importlib.util
import itertools
import json
import math
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import zstandard
from blake3 import blake3


def load(name: str) -> ModuleType:
    """A module that lies beside this one."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


reader = load("independent_reader")
Path_ = tuple[Any, ...]


@dataclass
class Kit:
    """A delta of one file in pieces: what its manifest says, its parts, its divisors."""

    manifest: dict[str, Any]
    parts: dict[str, Any]
    scales: dict[str, Any]

    def copy(self) -> "Kit":
        return copy.deepcopy(self)


def take_apart(delta: Path) -> Kit:
    text, parts = reader.read_parts(delta)
    _, scales = reader.read_file(delta / "scales.safetensors", canonical=True)
    return Kit(json.loads(text), parts, scales)


def sign(kit: Kit) -> None:
    """Payload digests, the base's digest and the features, from whatever the rest has become."""
    for name, entry in kit.manifest["tensors"].items():
        if "digest" in entry:
            entry["digest"] = payload_digest(kit, name)
    sign_base(kit.manifest)
    kit.manifest["requires"] = features(kit.manifest)


def payload_digest(kit: Kit, name: str) -> str:
    names = [name]
    if kit.manifest["tensors"][name].get("form") == "low_rank":
        names = [f"{name}:A", f"{name}:B"]
    parts = {part: tensor for part, tensor in kit.parts.items() if part.rpartition(":")[0] in names}
    return hexdigest(b"".join(parts[part].digest(part) for part in sorted(parts)))


def hexdigest(data: bytes) -> str:
    return blake3(data).hexdigest()


def sign_base(manifest: dict[str, Any]) -> None:
    """Does nothing where entries or digests are not what they should be."""
    try:
        used = {entry.get("base_name", name): entry["base_digest"] for name, entry in manifest["tensors"].items()
                if "base_digest" in entry}  # fmt: skip
        used |= {name: entry["digest"] for name, entry in manifest["dropped"].items()}
        whole = b"".join(bytes.fromhex(used[name]) for name in sorted(used, key=str.encode))
        manifest["base"] |= {"digest": hexdigest(whole), "tensors": len(used)}
    except (AttributeError, KeyError, TypeError, ValueError):
        return


def features(manifest: dict[str, Any]) -> list[str]:
    tensors = manifest.get("tensors")
    entries = [entry for entry in tensors.values() if isinstance(entry, dict)] if isinstance(tensors, dict) else []
    used = [entry.get("form") for entry in entries]
    factors = [entry[letter] for entry in entries for letter in "AB" if isinstance(entry.get(letter), dict)]
    for entry in entries + factors:
        mask, values = entry.get("mask"), entry.get("values")
        used += [mask.get("kind"), mask.get("score")] if isinstance(mask, dict) else []
        used += [values.get("codec"), values.get("pack")] if isinstance(values, dict) else []
        used += ["coded"] if isinstance(values, dict) and entry.get("form") == "whole" else []
    return sorted({word for word in used if isinstance(word, str) and word in reader.FEATURES})


def put_together(kit: Kit, delta: Path) -> None:
    """Over `delta`'s two files, with the digests of manifest and scales."""
    text = reader.compact(kit.manifest)
    metadata = {"format": "deltagram", "deltagram": text, "digest": hexdigest(text.encode())}
    write(delta / "delta.safetensors", reader.anew(metadata, kit.parts), kit.parts)
    put_scales(kit, delta, text)


def put_scales(kit: Kit, delta: Path, text: str) -> None:
    content = hexdigest(b"".join(tensor.digest(name) for name, tensor in kit.scales.items()))
    metadata = {"format": "deltagram-scales", "manifest": hexdigest(text.encode()), "digest": content}
    write(delta / "scales.safetensors", reader.padded(reader.anew(metadata, kit.scales)), kit.scales)


def write(path: Path, header: bytes, tensors: dict[str, Any]) -> None:
    data = b"".join(tensor.data for tensor in tensors.values())
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


# Hostile values for every place of a manifest

NUMBERS = [
    -1, 0, 1, 2, 3, 7, 8, 9, 64, 65_535, 65_536, 65_537, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, 1 << 33,
    1 << 62, (1 << 63) - 1, 1 << 63, 1 << 64, 1 << 200, True, None, 1.0, 1e300, "1", [], {},
]  # fmt: skip
TEXTS = [
    "", "x", ".", "..", "../x", "/etc/passwd", "a/../../x", "a//b", "a\\b", "a\0b", "x" * 300, "\ud800", "\u00fc",
    "README.md", "model.safetensors", "delta.safetensors", "scales.safetensors", "0" * 64, "0" * 16, None, 1, [],
    {}, ["x"],
]  # fmt: skip
SHAPES = [
    [], [0], [1], [1 << 62], [1 << 62, 1 << 62], [1 << 63], [0, 1 << 63], [0, 1 << 62], [-1], [1.0], ["1"], [True],
    [[]], [1] * 65, None, {}, "x", 5,
]  # fmt: skip
WORDS = {
    "dtype": list(reader.BITS), "base_dtype": list(reader.BITS), "stored": ["delta", "base"], "pack": ["zstd"],
    "form": ["pruned", "resized", "whole", "same", "exact", "low_rank"],
    "codec": ["f32", "bf16", "f16", "uniform", "codebook"], "kind": ["stratified", "bernoulli", "listed", "columns"],
    "score": ["random", "magnitude", "wanda"],
    "coding": ["golomb", "gaps", "bitmap"],
}  # fmt: skip
LISTS = [[[]], [{}], [None], ["nope"], ["zstd", "zstd"], ["resized", "exact"], [], None, "zstd", {}, [["zstd"]]]


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The path of every value in a JSON document, inner ones too."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def at(document: Any, path: Path_) -> Any:
    for key in path:
        document = document[key]
    return document


def instead(value: Any, path: Path_) -> list[Any]:
    """What to put in the place of a value."""
    if isinstance(value, bool) or value is None:
        return [False, 1, None, "true"] if value else []
    if isinstance(value, float):
        return [*NUMBERS, 0.0, -0.0, -value, 2 * value, 1e38, 1e-300, -1e308, 5e-324, "x", int(value)]
    if isinstance(value, int):
        return [*NUMBERS, value - 1, value + 1, 2 * value]
    if isinstance(value, str):
        return [*TEXTS, *WORDS.get(path[-1], []), value + "x", value.upper(), value[:-1]]
    if isinstance(value, list) and path[-1] == "requires":
        return LISTS
    if isinstance(value, list):
        return [*SHAPES, [*value, 1], [1, *value], value[1:], value[::-1], [2 * side for side in value]]
    return [None, [], "x", 1, {}, {**value, "extra": 1}, dict(reversed(value.items()))]


def changes(manifest: dict[str, Any]) -> Iterator[tuple[str, Path_, Any]]:
    """Every (label, path, new value); `...` as a value means: take the key away."""
    for path in places(manifest):
        for new in instead(at(manifest, path), path):
            yield f"{list(path)} = {new!r:.80}", path, new
        if isinstance(path[-1], str):
            yield f"{list(path)} gone", path, ...
    for path, key, new in additions(manifest):
        yield f"{list(path)} with {key} = {new!r}", (*path, key), new


def additions(manifest: dict[str, Any]) -> Iterator[tuple[Path_, str, Any]]:
    """Optional keys where they are absent."""
    for name, entry in manifest["tensors"].items():
        base = {"base_shape": entry.get("base_shape", entry["shape"])}
        for shape in (
            [1 << 62],
            [1 << 40],
            [0],
            [],
            [2, 3],
            [1, *entry["shape"]],
            [*entry["shape"], 1],
            [1 << 30, 1 << 30],
        ):
            yield ("tensors",), name, in_order({**entry, **base, "shape": shape})
        base = {"base_dtype": entry.get("base_dtype", entry["dtype"])}
        for dtype in reader.BITS:
            yield ("tensors",), name, in_order({**entry, **base, "dtype": dtype})
        more = {
            "base_name": [name, "other"],
            "base_shape": [entry["shape"], [2, 2], [0], []],
            "tuned_digest": ["0" * 64],
        }
        more |= {"base_dtype": [entry["dtype"], "F32", "I64", "U8"], "base_digest": ["0" * 64], "digest": ["0" * 64]}
        for key, new in ((key, new) for key, found in more.items() for new in found if key not in entry):
            yield ("tensors", name), key, new
        for key, new in (("threshold", 1 << 31), ("columns", 3), ("score", "wanda")):
            if "mask" in entry and key not in entry["mask"]:
                yield ("tensors", name, "mask"), key, new
        for key, new in (("bits", 4), ("group", 64), ("pack", "zstd")):
            if "values" in entry and key not in entry["values"]:
                yield ("tensors", name, "values"), key, new
        yield from of_form(name, entry)
    for name in ("README.md", "../up", "/etc/passwd", "model.safetensors", "x" * 300, "a\0b", "no/such"):
        for stored in ("delta", "base"):
            yield ("files",), name, {"digest": hexdigest(b""), "bytes": 0, "stored": stored}
    yield ("dropped",), "other", {"shape": [1], "dtype": "F32", "digest": "0" * 64}


def of_form(name: str, entry: dict[str, Any]) -> Iterator[tuple[Path_, str, Any]]:
    """Keys that belong to one form."""
    if entry["form"] in ("whole", "same", "exact") and "values" not in entry:
        for values in ({"codec": "f32"}, {"codec": "bf16", "pack": "zstd"}, {"codec": "codebook", "bits": 2}, []):
            yield ("tensors", name), "values", values
    if entry["form"] == "low_rank":
        yield ("tensors", name), "transposed", True
        for letter in "AB":
            yield ("tensors",), f"{name}:{letter}", entry


def in_order(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in reader.ENTRY_KEYS if key in entry}


def changed(kit: Kit, path: Path_, new: Any) -> Kit:
    """A kit with one value of the manifest changed, its keys in the right order, and signed again."""
    kit = Kit(copy.deepcopy(kit.manifest), kit.parts, kit.scales)
    holder = at(kit.manifest, path[:-1])
    if new is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    if path[0] == "tensors" and len(path) == 3 and isinstance(holder, dict):
        kit.manifest["tensors"][path[1]] = in_order(holder)
    if path[0] != "base":
        sign_base(kit.manifest)
    if path[0] != "requires":
        kit.manifest["requires"] = features(kit.manifest)
    return kit


def pieces(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What to put in the place of a part's bytes."""
    size = len(data)
    for length in sorted({0, 1, size // 2, max(0, size - 1)} - {size}):
        yield f"cut to {length}", data[:length]
    yield "a byte more", data + b"\0"
    yield "twice", data * 2
    for byte, start in itertools.product(
        (b"\0", b"\x01", b"\x7f", b"\x80", b"\xff"), range(0, size, max(1, size // 9))
    ):
        yield f"{byte!r} at {start}", data[:start] + byte + data[start + 1 :]
    for word, start in itertools.product((0, 1, 0x7FFFFFFF, 0xFFFFFFFF), range(0, min(size - 4, 40), 4)):
        yield f"{word} at {start}", data[:start] + word.to_bytes(4, "little") + data[start + 4 :]
    for fill in (b"\0", b"\xff"):
        yield f"all {fill!r}", fill * size


# Hostile files: every function gives (label, what to do to a copy of the delta)

Tamper = Callable[[Path], None]
Case = tuple[str, Tamper]


def parts_replaced(pristine: Kit) -> Iterator[Case]:
    """Parts with other bytes, their shapes and digests made to fit."""
    for part, tensor in pristine.parts.items():
        for label, data in pieces(tensor.data):
            yield f"{part}: {label}", with_part(pristine, part, tensor.dtype, tensor.shape, data)
        for dtype in ("U8", "I8", "F32", "U32", "F16", "BF16", "F64", "BOOL"):
            width = reader.BITS[dtype] // 8
            if len(tensor.data) % width == 0 and dtype != tensor.dtype:
                shape = (len(tensor.data) // width,)
                yield f"{part}: {dtype}", with_part(pristine, part, dtype, shape, tensor.data)
        yield f"{part}: two axes", with_part(pristine, part, tensor.dtype, (1, *tensor.shape), tensor.data)


def with_part(pristine: Kit, part: str, dtype: str, shape: tuple[int, ...], data: bytes) -> Tamper:
    def tamper(delta: Path) -> None:
        kit = pristine.copy()
        fitting = (len(data),) if dtype == "U8" and len(shape) == 1 else shape
        if len(data) == reader.nbytes(dtype, fitting):
            kit.parts[part] = reader.Tensor(dtype, fitting, data)
        sign(kit)
        put_together(kit, delta)

    return tamper


def parts_moved(pristine: Kit) -> Iterator[Case]:
    """Parts missing, renamed, added, in another order, under the names of others."""
    names = list(pristine.parts)
    for part in names:
        yield f"{part} gone", renamed_part(pristine, part, None)
        for new in (
            f"{part}s",
            part.upper(),
            part.replace(":", ""),
            f"{part}:",
            f"other:{part}",
            "\ud800:values",
            "x:rows",
        ):
            yield f"{part} as {new!r}", renamed_part(pristine, part, new)
    for extra in (
        "x",
        "",
        ":",
        "plain:",
        "plain:rows",
        "plain:counts",
        "plain:positions",
        "same:whole",
        "\ue812:whole:whole",
    ):
        yield f"{extra!r} added", added_part(pristine, extra)
    yield "parts backwards", backwards(pristine)


def renamed_part(pristine: Kit, part: str, new: str | None) -> Tamper:
    def tamper(delta: Path) -> None:
        kit = pristine.copy()
        kit.parts = {new if name == part else name: kit.parts[name] for name in kit.parts if new or name != part}
        sign(kit)
        put_together(kit, delta)

    return surrogates(tamper)


def surrogates(tamper: Tamper) -> Tamper:
    """Names that UTF-8 cannot hold have no digest; then nothing is done."""

    def careful(delta: Path) -> None:
        with contextlib.suppress(UnicodeEncodeError):
            tamper(delta)

    return careful


def added_part(pristine: Kit, name: str) -> Tamper:
    def tamper(delta: Path) -> None:
        kit = pristine.copy()
        kit.parts[name] = reader.Tensor("U8", (3,), b"abc")
        sign(kit)
        put_together(kit, delta)

    return tamper


def backwards(pristine: Kit) -> Tamper:
    """Another order of parts, of no meaning."""

    def tamper(delta: Path) -> None:
        put_together(Kit(pristine.manifest, dict(reversed(pristine.parts.items())), pristine.scales), delta)

    return tamper


def names_changed(pristine: Kit) -> Iterator[Case]:
    """A tuned tensor under an odd name, consistently."""
    for name, entry in pristine.manifest["tensors"].items():
        for new in (
            "",
            ":",
            "a:b",
            "../x",
            "x" * 5000,
            "a\0b",
            "__metadata__",
            "\u2028",
            "\U0001f600",
            "\ud800",
            "values",
        ):
            if entry["form"] in ("whole", "same", "exact"):
                yield f"{name} as {new!r:.40}", surrogates(renamed(pristine, name, new))


def renamed(pristine: Kit, name: str, new: str) -> Tamper:
    def tamper(delta: Path) -> None:
        kit = pristine.copy()
        tensors = kit.manifest["tensors"]
        entry = tensors[name]
        if "base_digest" in entry:
            entry.setdefault("base_name", name)
        kit.manifest["tensors"] = {new if old == name else old: in_order(tensors[old]) for old in tensors}
        kit.parts = {
            f"{new}:{part.rpartition(':')[2]}" if part.rpartition(":")[0] == name else part: tensor
            for part, tensor in kit.parts.items()
        }
        if "tuned_digest" in entry:
            entry["tuned_digest"] = "0" * 64
        sign(kit)
        put_together(kit, delta)

    return tamper


def bases_shared(pristine: Kit) -> Iterator[Case]:
    """One base tensor for two entries that disagree about it; `a`, the first or the last of them, is a lie."""
    rng = np.random.default_rng(6)
    digest = pristine.manifest["tensors"]["plain"]["base_digest"]
    shapes = ([9, 14], [1 << 20], [3, 14], [0])
    for dtype, shape, form in itertools.product(("F32", "F16", "F64"), shapes, ("pruned", "same")):
        keep = min(50, math.prod(shape))
        entry = {"shape": shape, "dtype": dtype, "base_name": "plain", "form": form, "base_digest": digest}
        parts = {}
        if form == "pruned" and keep:
            check = stratified_check(pristine.manifest["seed"], "a", shape, keep)
            entry |= {"mask": {"kind": "stratified", "keep": keep, "check": check}, "values": {"codec": "f32"}}
            entry |= {"digest": ""}
            parts["a:values"] = reader.Tensor("F32", (keep,), rng.normal(size=keep).astype("<f4").tobytes())
        for first in (True, False):
            yield f"{form} {dtype} {shape} {first}", with_entry(pristine, "a", entry, parts, first=first)


def stratified_check(seed: int, name: str, shape: list[int], keep: int) -> str:
    raw = {"mask": {"keep": keep}}
    entry = reader.Entry(name, "pruned", "F32", tuple(shape), name, "F32", tuple(shape), raw)
    key = int.from_bytes(blake3(struct.pack("<q", seed) + name.encode()).digest()[:8], "little")
    return hexdigest(reader.stratified(entry, key).astype("<u8").tobytes())[:16]


def heavy(pristine: Kit) -> Iterator[Case]:
    """A few kilobytes that stand for a great many entries: `a`, which no base has."""
    blocks = 60
    keep = blocks * reader.BLOCK
    zeros = zstandard.ZstdCompressor().compress(bytes(reader.BLOCK))
    stream = {
        planes: struct.pack("<I", len(zeros)) * planes * blocks + zeros * planes * blocks for planes in (1, 2, 4, 8)
    }
    table = b"".join(struct.pack("<QI", (i + 1) * reader.BLOCK, len(zeros)) for i in range(blocks - 1))
    packed = {"codec": "bf16", "pack": "zstd"}
    listed = {"score": "magnitude", "coding": {"coding": "gaps"}}
    counts = reader.Tensor("U32", (blocks,), struct.pack("<I", reader.BLOCK) * blocks)
    masks = {
        "stratified": ({"kind": "stratified", "keep": keep}, {}, 1 << 40),
        "bernoulli": ({"kind": "bernoulli", "threshold": 1 << 32, "keep": keep}, {"counts": counts}, keep),
        "gaps": ({"kind": "listed", "keep": keep, **listed}, {"positions": u8(table + zeros * blocks)}, keep),
    }
    for label, (mask, more, size) in masks.items():
        for values, planes in ((packed, 2), ({"codec": "f32", "pack": "zstd"}, 4)):
            entry = {"shape": [size], "dtype": "F32", "form": "pruned", "base_digest": "0" * 64}
            entry |= {"mask": {**mask, "check": "0" * 16}, "values": values, "digest": ""}
            parts = {"a:values": u8(stream[planes])} | {f"a:{suffix}": part for suffix, part in more.items()}
            yield f"{label} {planes}", with_entry(pristine, "a", entry, parts, first=True)
    for dtype, planes in (("F64", 8), ("I32", 4), ("BF16", 2), ("U8", 1)):
        entry = {"shape": [blocks, reader.BLOCK], "dtype": dtype, "form": "exact", "base_digest": "0" * 64}
        entry |= {"tuned_digest": "0" * 64, "digest": ""}
        yield f"exact {dtype}", with_entry(pristine, "a", entry, {"a:planes": u8(stream[planes])}, first=True)


def u8(data: bytes) -> Any:
    return reader.Tensor("U8", (len(data),), data)


def with_entry(pristine: Kit, name: str, entry: Any, parts: dict[str, Any], *, first: bool) -> Tamper:
    def tamper(delta: Path) -> None:
        kit = pristine.copy()
        tensors = kit.manifest["tensors"]
        kit.manifest["tensors"] = {name: entry.copy(), **tensors} if first else {**tensors, name: entry.copy()}
        kit.parts |= parts
        if "mask" in entry:
            kit.scales[name] = reader.Tensor("F64", (), struct.pack("<d", 1.0))
        sign(kit)
        put_together(kit, delta)

    return tamper


def scales_replaced(pristine: Kit) -> Iterator[Case]:
    """Divisors of every dtype, shape and value that is possible, and more that are not."""
    numbers = [
        0.0,
        -0.0,
        -1.0,
        1.0,
        math.inf,
        math.nan,
        1e300,
        1e-300,
        1e-46,
        1e-45,
        3.4e38,
        3.5e38,
        1e-40,
        1e-30,
        65504.0,
    ]
    for name in pristine.scales:
        for number in numbers:
            yield f"{name} {number}", with_scale(pristine, name, "F64", (), struct.pack("<d", number))
        rows = rows_of(pristine, name)
        for dtype, shape in itertools.product(
            ("F16", "F32", "BF16", "F64"), ((), (rows,), (rows - 1,), (1,), (rows, 1), (0,))
        ):
            for number in (1.0, 0.5, 0.0, math.nan):
                data = np.full(shape, number).astype(reader.FLOATS[dtype]).tobytes()
                yield f"{name} {dtype} {shape} {number}", with_scale(pristine, name, dtype, shape, data)
        loud = np.full(rows, 0x7C01, "<u2").tobytes()
        yield f"{name} signalling", with_scale(pristine, name, "F16", (rows,), loud)
        tiny = np.full(rows, 1, "<u2").tobytes()
        yield f"{name} subnormal", with_scale(pristine, name, "F16", (rows,), tiny)
        for other in (None, "", "x", "same", "\ud800", f"{name}:divide_by"):
            yield f"{name} as {other!r}", surrogates(renamed_scale(pristine, name, other))


def rows_of(pristine: Kit, name: str) -> int:
    """The rows of a tensor, or of a factor of it."""
    tensor, _, letter = name.rpartition(":")
    entry = pristine.manifest["tensors"][tensor or name]
    if letter == "A" and tensor:
        return int(entry["rank"])
    rest = math.prod(entry["shape"][1:])
    return int(rest if "transposed" in entry else (entry["shape"] or [1])[0])


def with_scale(pristine: Kit, name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> Tamper:
    def tamper(delta: Path) -> None:
        kit = Kit(pristine.manifest, pristine.parts, dict(pristine.scales))
        kit.scales[name] = reader.Tensor(dtype, shape, data)
        put_scales(kit, delta, reader.compact(kit.manifest))

    return tamper


def renamed_scale(pristine: Kit, name: str, new: str | None) -> Tamper:
    def tamper(delta: Path) -> None:
        scales = {new if old == name else old: pristine.scales[old] for old in pristine.scales if new or old != name}
        put_scales(Kit(pristine.manifest, pristine.parts, scales), delta, reader.compact(pristine.manifest))

    return tamper


def frames_replaced(pristine: Kit) -> Iterator[Case]:
    """The first plane of a packed tensor, all zeros, as every sort of zstd frame."""
    for name, entry in pristine.manifest["tensors"].items():
        if entry["form"] == "pruned" and entry["values"] in ({"codec": c, "pack": "zstd"} for c in ("bf16", "f16")):
            keep = entry["mask"]["keep"]
            for label, frame in frames(keep).items():
                data = struct.pack("<II", len(frame), keep) + frame + bytes(keep)
                yield f"{name}: {label}", with_part(pristine, f"{name}:values", "U8", (len(data),), data)


def frames(size: int) -> dict[str, bytes]:
    plain = zstandard.ZstdCompressor(level=3)
    good, half = plain.compress(bytes(size)), bytes(size // 2)
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"skip"
    lexicon = zstandard.ZstdCompressionDict(b"a few bytes that a dictionary is made of" * 9)
    return {
        "a frame": good,
        "raw": bytes(size),
        "too large": bytes(size + 1),
        "nothing": b"",
        "a checksum": zstandard.ZstdCompressor(write_checksum=True).compress(bytes(size)),
        "a wrong checksum": zstandard.ZstdCompressor(write_checksum=True).compress(bytes(size))[:-1] + b"!",
        "no content size": zstandard.ZstdCompressor(write_content_size=False).compress(bytes(size)),
        "a dictionary": zstandard.ZstdCompressor(dict_data=lexicon).compress(bytes(size)),
        "a byte more": good + b"\0",
        "a byte less": good[:-1],
        "one more": plain.compress(bytes(size + 1)),
        "one less": plain.compress(bytes(size - 1)),
        "two frames": plain.compress(half) + plain.compress(half),
        "an empty frame more": good + plain.compress(b""),
        "an empty frame before": plain.compress(b"") + good,
        "skippable before": skippable + good,
        "skippable after": good + skippable,
        "a bomb": rle_frame(size, [131_072] * 300),
        "a wide window": rle_frame(size, [size]),
        "runs": rle_frame(size, [1] * min(size, 5) + [size - min(size, 5)]),
        "an open end": rle_frame(size, [size], last=False),
        "a reserved block": rle_frame(size, [size], kind=3),
        "a reserved bit": good[:4] + bytes([good[4] | 8]) + good[5:],
        "an unused bit": good[:4] + bytes([good[4] | 16]) + good[5:],
    }


def rle_frame(size: int, runs: list[int], *, last: bool = True, kind: int = 1) -> bytes:
    """A zstd frame made by hand: it declares `size`, asks for a window of 2 GiB, and holds runs of zeros."""
    blocks = [
        (run << 3 | kind << 1 | (last and i == len(runs) - 1)).to_bytes(3, "little") for i, run in enumerate(runs)
    ]
    return struct.pack("<IBBI", 0xFD2FB528, 0x80, 21 << 3, size) + b"".join(block + b"\0" for block in blocks)


HEADERS = [
    b"", b" ", b"[]", b"null", b"{}", b"1", b'"x"', b"{", b"\xff", b"\xef\xbb\xbf{}", b"[" * 50_000, b'{"a":' * 50_000,
    b"1" * 5_000, b'{"__metadata__":{"a":1}}', b'{"__metadata__":null}', b'{"__metadata__":[]}', b'{"__metadata__":{}}',
    b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    b'{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}',
    b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[-1,-1]}}',
    b'{"a":{"dtype":"U8","shape":[1' + b"0" * 5_000 + b'],"data_offsets":[0,0]}}',
    b'{"a":{"dtype":["U8"],"shape":[0],"data_offsets":[0,0]}}', b'{"a":{"dtype":"U8","shape":0,"data_offsets":[0,0]}}',
    b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0.0]}}', b'{"a":[]}', b'{"a":{"dtype":"U8"}}', b'{"a":NaN}',
    b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
]  # fmt: skip
MANIFESTS = [
    "", "null", "[]", "{}", "1", "x", '{"version":1}', '{"version":true}', '{"version":2}',
    '{"version":1,"requires":[[]]}',
    '{"version":[]}', "[" * 20_000, '{"a":' * 20_000, '{"version":' + "1" * 5_000 + "}", '{"version":1,"requires":{}}',
    '{"version":1,"requires":["nope"]}', '{"version":1.0}', '{"version":NaN}', "\u00fc", "\ud800", '"\ud800"',
]  # fmt: skip


def headers_replaced(delta: Path, file: str) -> Iterator[Case]:
    """Absurd lengths and headers; manifests that are none."""
    blob = (delta / file).read_bytes()
    size = int.from_bytes(blob[:8], "little")
    header, data = blob[8 : 8 + size], blob[8 + size :]
    for length in (
        0,
        1,
        2,
        7,
        size - 1,
        size + 1,
        len(blob) - 8,
        len(blob),
        10**8,
        10**8 + 1,
        1 << 31,
        1 << 63,
        (1 << 64) - 1,
    ):
        yield f"{file}: length {length}", over(file, length.to_bytes(8, "little") + header + data)
    for other in HEADERS:
        yield f"{file}: header {other!r:.60}", over(file, framed(other) + data)
        yield f"{file}: header {other!r:.60} alone", over(file, framed(other))
    for text in MANIFESTS:
        digest = hexdigest(text.encode(errors="surrogatepass"))
        metadata = {"format": "deltagram", "deltagram": text, "digest": digest}
        yield f"{file}: manifest {text!r:.60}", over(file, framed(reader.compact({"__metadata__": metadata}).encode()))
    yield from canonical(file, header, data)


def canonical(file: str, header: bytes, data: bytes) -> Iterator[Case]:
    """The same JSON written otherwise; spaces at the end are allowed in a delta."""
    parsed = json.loads(header)
    metadata = parsed.pop("__metadata__")
    for label, other in {
        "loose": json.dumps({"__metadata__": metadata, **parsed}),
        "metadata last": reader.compact({**parsed, "__metadata__": metadata}),
        "metadata backwards": reader.compact({"__metadata__": dict(reversed(metadata.items())), **parsed}),
        "tensors backwards": reader.compact({"__metadata__": metadata, **dict(reversed(parsed.items()))}),
        "more metadata": reader.compact({"__metadata__": {**metadata, "x": "y"}, **parsed}),
        "other format": reader.compact({"__metadata__": {**metadata, "format": "pt"}, **parsed}),
        "no metadata": reader.compact(parsed),
        "unescaped": json.dumps({"__metadata__": metadata, **parsed}, separators=(",", ":"), ensure_ascii=False),
        "in capitals": header.decode().replace("\\u00fc", "\\u00FC"),
        "newline": header.decode() + "\n",
        "space before": " " + header.decode(),
        "spaces": header.decode() + " " * 8,
        "one space": header.decode() + " ",
        "bare": header.decode().rstrip(" "),
    }.items():
        yield f"{file}: {label}", over(file, framed(other.encode()) + data)


def framed(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def over(file: str, data: bytes) -> Tamper:
    def tamper(delta: Path) -> None:
        (delta / file).write_bytes(data)

    return tamper


# Hostile directories


def links(delta: Path) -> Iterator[Case]:
    """A symbolic link in the place of each file, to the same bytes elsewhere."""
    for path in sorted(delta.iterdir()):
        if path.is_file() and path.name != "README.md":
            yield f"{path.name} is a link", linked(path.name)


def linked(name: str) -> Tamper:
    def tamper(delta: Path) -> None:
        elsewhere = delta / "README.md"
        (delta / name).replace(elsewhere)
        (delta / name).symlink_to(elsewhere)

    return tamper


def gone(delta: Path) -> Iterator[Case]:
    for path in sorted(delta.iterdir()):
        yield f"{path.name} is gone", lambda copy, name=path.name: (copy / name).unlink()
        yield f"{path.name} is a directory", lambda copy, name=path.name: directory(copy / name)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def companions_elsewhere(pristine: Kit) -> Iterator[Case]:
    """A companion reached through a linked directory, and one that would lie where the checkpoint does."""

    def outside(delta: Path) -> None:
        (delta.parent.parent / "outside").mkdir(exist_ok=True)
        (delta.parent.parent / "outside" / "config.json").write_bytes(b"secret")
        (delta / "sub").symlink_to(delta.parent.parent / "outside")

    def inside(delta: Path, name: str) -> None:
        (delta / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # a name that is too long
            (delta / name).write_bytes(b"secret")

    described = {"digest": hexdigest(b"secret"), "bytes": 6, "stored": "delta"}
    yield "sub is a link", with_companion(pristine, "sub/config.json", described, lambda delta, _: outside(delta))
    ends = (
        "model.safetensors",
        "model.safetensors.index.json",
        "x.bin",
        "x.pt",
        "x.pth",
        "x.ckpt",
        "x.pkl",
        "a b",
        "x.py",
    )
    for name in (
        *ends,
        "sub/model.safetensors",
        "sub/config.json",
        "a/b/c/d",
        ".git/hooks/x",
        "a/.b",
        "..x",
        "x" * 300,
    ):
        yield name, with_companion(pristine, name, described, inside)


def with_companion(pristine: Kit, name: str, described: Any, prepare: Callable[[Path, str], None]) -> Tamper:
    def tamper(delta: Path) -> None:
        kit = pristine.copy()
        kit.manifest["files"][name] = described
        put_together(kit, delta)
        prepare(delta, name)

    return tamper


def indexes(delta: Path) -> Iterator[Case]:
    """Another index over the same shards."""
    name = "delta.safetensors.index.json"
    good = json.loads((delta / name).read_text())
    weights = good["weight_map"]
    first, last = next(iter(weights)), list(weights)[-1]
    for value in (
        None,
        1,
        [],
        {},
        True,
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "x" * 300,
        "a\0b",
        "\ud800",
        "README.md",
    ):
        yield f"a shard {value!r:.20}", over(name, dumped(good | {"weight_map": {**weights, first: value}}))
        yield f"all shards {value!r:.20}", over(name, dumped(good | {"weight_map": dict.fromkeys(weights, value)}))
        yield f"the map {value!r:.20}", over(name, dumped(good | {"weight_map": value}))
        yield f"the size {value!r:.20}", over(name, dumped({**good, "metadata": {"total_size": value}}))
        yield f"the index {value!r:.20}", over(name, dumped(value))
    for text in HEADERS:
        yield f"the index {text!r:.40}", over(name, text)
    yield "backwards", over(name, dumped({**good, "weight_map": dict(reversed(weights.items()))}))
    yield "more", over(name, dumped({**good, "x": 1}))
    yield "a part less", over(name, dumped({**good, "weight_map": {k: v for k, v in weights.items() if k != last}}))
    yield "a part more", over(name, dumped({**good, "weight_map": {**weights, "x:y": weights[last]}}))
    yield "other spaces", over(name, json.dumps(good, indent=2).encode())
    yield "a newline", over(name, dumped(good) + b"\n")


def dumped(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()


def shards(delta: Path) -> Iterator[Case]:
    """Other shards with an index that fits them."""
    files = sorted(path.name for path in delta.glob("delta-*.safetensors"))
    yield "as they are", lambda copy: reindex(copy, files)
    for label, metadata in {
        "another format": {"format": "pt"}, "more metadata": {"format": "deltagram", "x": "y"}, "no metadata": {},
        "a second manifest": reader.read_file(delta / files[0], canonical=True)[0],
    }.items():  # fmt: skip
        yield label, with_metadata(files, files[1], metadata)
        yield f"{label}, last", with_metadata(files, files[-1], metadata)
    yield "other names", lambda copy: reindex(copy, [rename(copy, name, f"x{name}") for name in files])
    yield "one name too many", lambda copy: shutil.copy(copy / files[0], copy / "delta-00099-of-00099.safetensors")
    yield "swapped", lambda copy: swap(copy / files[0], copy / files[1])
    yield "swapped and indexed", lambda copy: (swap(copy / files[0], copy / files[1]), reindex(copy, files))
    yield "one file beside them", lambda copy: shutil.copy(copy / files[0], copy / "delta.safetensors")


def with_metadata(files: list[str], name: str, metadata: dict[str, str]) -> Tamper:
    def tamper(delta: Path) -> None:
        tensors = reader.read_file(delta / name, canonical=True)[1]
        write(delta / name, reader.anew(metadata, tensors), tensors)
        reindex(delta, files)

    return tamper


def rename(delta: Path, name: str, new: str) -> str:
    (delta / name).rename(delta / new)
    return new


def swap(one: Path, other: Path) -> None:
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def reindex(delta: Path, files: list[str]) -> None:
    weights = {part: name for name in files for part in reader.read_file(delta / name, canonical=False)[1]}
    total = sum((delta / name).stat().st_size for name in files)
    index = {"metadata": {"total_size": total}, "weight_map": weights}
    (delta / "delta.safetensors.index.json").write_bytes(dumped(index))
