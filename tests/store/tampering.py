"""Deltas taken apart and put together again with all digests right: what a hostile writer can do."""

import copy
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

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
    parts = {part: tensor for part, tensor in kit.parts.items() if part.rpartition(":")[0] == name}
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
    for entry in entries:
        mask, values = entry.get("mask"), entry.get("values")
        used += [mask.get("kind")] if isinstance(mask, dict) else []
        used += [values.get("codec"), values.get("pack")] if isinstance(values, dict) else []
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
    "form": ["pruned", "resized", "whole", "same", "exact"],
    "codec": ["f32", "bf16", "f16", "uniform", "codebook"], "kind": ["stratified", "bernoulli", "listed"],
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
        return []
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
        more = {
            "base_name": [name, "other"],
            "base_shape": [entry["shape"], [2, 2], [0], []],
            "tuned_digest": ["0" * 64],
        }
        more |= {"base_dtype": [entry["dtype"], "F32", "I64", "U8"], "base_digest": ["0" * 64], "digest": ["0" * 64]}
        for key, new in ((key, new) for key, found in more.items() for new in found if key not in entry):
            yield ("tensors", name), key, new
        for key, new in (("bits", 4), ("group", 64), ("pack", "zstd")):
            if "values" in entry and key not in entry["values"]:
                yield ("tensors", name, "values"), key, new
    for name in ("README.md", "../up", "/etc/passwd", "model.safetensors", "x" * 300, "a\0b", "no/such"):
        for stored in ("delta", "base"):
            yield ("files",), name, {"digest": hexdigest(b""), "bytes": 0, "stored": stored}
    yield ("dropped",), "other", {"shape": [1], "dtype": "F32", "digest": "0" * 64}


def changed(kit: Kit, path: Path_, new: Any) -> Kit:
    """A kit with one value of the manifest changed, its keys in the right order, and signed again."""
    kit = Kit(copy.deepcopy(kit.manifest), kit.parts, kit.scales)
    holder = at(kit.manifest, path[:-1])
    if new is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    if path[0] == "tensors" and len(path) == 3 and isinstance(holder, dict):
        order = [key for key in reader.ENTRY_KEYS if key in holder]
        kit.manifest["tensors"][path[1]] = {key: holder[key] for key in order}
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
