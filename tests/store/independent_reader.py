"""Deltas read from docs/FORMAT.md alone: slow, strict, and without a line of the library.

`restored(base, delta)` gives every tuned tensor's dtype, shape and bytes, or raises `Refused` for the first rule of
the document that does not hold. Section numbers below are the document's.
"""

import base64
import itertools
import json
import math
import re
import struct
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import zstandard
from blake3 import blake3

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip
FLOATS = {"F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
BLOCK = 65_536
BITMAP_SPAN = 524_288
HEADER_LIMIT = 100_000_000
FEATURES = {
    "stratified", "bernoulli", "listed", "columns", "wanda", "uniform", "codebook", "zstd", "resized", "exact",
    "low_rank", "coded",
}  # fmt: skip
MANIFEST_KEYS = ["version", "requires", "created_by", "seed", "base", "tuned", "files", "dropped", "tensors"]
ENTRY_KEYS = [
    "shape", "dtype", "base_name", "base_shape", "base_dtype", "form", "base_digest", "mask", "values", "rank", "scale",
    "transposed", "A", "B", "tuned_digest", "digest",
]  # fmt: skip
HEX64 = re.compile("[0-9a-f]{64}")


class Refused(Exception):  # noqa: N818
    """A rule of the document that a delta or its base breaks."""


def need(holds: object, what: str) -> None:
    if not holds:
        raise Refused(what)


@dataclass
class Tensor:
    """What a safetensors file says about a tensor, and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def floats(self) -> np.ndarray:
        return np.frombuffer(self.data, FLOATS[self.dtype])

    def digest(self, name: str) -> bytes:
        """Section 3."""
        text, dtype = name.encode(), self.dtype.encode()
        start = struct.pack("<Q", len(text)) + text + struct.pack("<Q", len(dtype)) + dtype
        axes = struct.pack(f"<{1 + len(self.shape)}Q", len(self.shape), *self.shape)
        return blake3(start + axes + self.data).digest()


@dataclass
class Entry:
    """A tuned tensor's entry of the manifest with everything spelled out."""

    name: str
    form: str
    dtype: str
    shape: tuple[int, ...]
    base_name: str | None
    base_dtype: str
    base_shape: tuple[int, ...]
    raw: dict[str, Any]
    parts: dict[str, Tensor] = field(default_factory=dict)
    divide_by: np.ndarray | None = None
    factors: dict[str, "Entry"] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return min(self.shape[0], self.base_shape[0]) if self.form == "resized" else 0

    @property
    def common(self) -> tuple[int, ...]:
        return (self.rows, *self.shape[1:]) if self.form == "resized" else self.shape

    @property
    def size(self) -> int:
        """N of section 6."""
        return math.prod(self.common)


# Section 2: safetensors files


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def known(value: object, table: Container[str]) -> bool:
    return type(value) is str and value in table


def is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    bits = math.prod(shape) * BITS[dtype]
    need(bits % 8 == 0, "a tensor of half bytes")
    return bits // 8


def read_header(path: Path) -> tuple[bytes, dict[str, Any], bytes]:
    """The header's bytes, what they say, and the data."""
    blob = path.read_bytes()
    need(len(blob) >= 8, f"{path.name}: no header length")
    (length,) = struct.unpack("<Q", blob[:8])
    need(length <= HEADER_LIMIT and length <= len(blob) - 8, f"{path.name}: header length {length}")
    header = blob[8 : 8 + length]
    try:
        parsed = json.loads(header.decode())
    except (ValueError, RecursionError) as fault:
        raise Refused(f"{path.name}: the header is no JSON") from fault
    need(type(parsed) is dict, f"{path.name}: the header is no object")
    return header, parsed, blob[8 + length :]


def read_file(path: Path, *, canonical: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file, in the order of their data."""
    need(is_there(path), f"{path.name}: no such file")
    header, parsed, data = read_header(path)
    metadata = parsed.pop("__metadata__", {})
    need(type(metadata) is dict and all(type(v) is str for v in metadata.values()), f"{path.name}: metadata")
    utf8("".join([*parsed, *metadata, *metadata.values()]))
    tensors, at = {}, 0
    for name, spec in sorted(parsed.items(), key=lambda item: offsets(item[1])) if not canonical else parsed.items():
        begin, end = offsets(spec)
        need(begin == at, f"{path.name}: {name} begins at {begin} and not {at}")
        dtype, shape = spec["dtype"], tuple(spec["shape"])
        need(known(dtype, BITS) and all(map(is_count, shape)), f"{path.name}: {name} has an odd dtype or shape")
        need(end - begin == nbytes(dtype, shape), f"{path.name}: {name} has {end - begin} bytes")
        need(end <= len(data), f"{path.name}: {name} ends beyond the file")
        tensors[name], at = Tensor(dtype, shape, data[begin:end]), end
    need(at == len(data), f"{path.name}: ends at {len(data)} and not {at}")
    if canonical:
        need(header.rstrip(b" ") == anew(metadata, tensors), f"{path.name}: the header is not canonical")
    return metadata, tensors


def offsets(spec: object) -> tuple[int, int]:
    need(type(spec) is dict and set(spec) == {"dtype", "shape", "data_offsets"}, "a tensor of a header has other keys")
    assert isinstance(spec, dict)
    need(type(spec["dtype"]) is str and type(spec["shape"]) is list, "a dtype or shape of a header")
    pair = spec["data_offsets"]
    need(type(pair) is list and len(pair) == 2 and all(map(is_count, pair)) and pair[0] <= pair[1], "offsets")
    return pair[0], pair[1]


def anew(metadata: dict[str, str], tensors: dict[str, Tensor]) -> bytes:
    """The canonical header; there is no delta file without metadata."""
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, tensor in tensors.items():
        shape, end = list(tensor.shape), at + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    return compact(header).encode()


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    need(files, f"{path}: no checkpoint")
    tensors: dict[str, Tensor] = {}
    for file in files:
        _, more = read_file(file, canonical=False)
        need(not set(more) & set(tensors), f"{file}: a name twice")
        tensors |= more
    return tensors


# Sections 1, 2 and 4: the directory and the manifest


def read_parts(delta: Path) -> tuple[str, dict[str, Tensor]]:
    """The manifest's text and all parts."""
    index, single = delta / "delta.safetensors.index.json", delta / "delta.safetensors"
    if is_there(single):
        metadata, parts = read_file(single, canonical=True)
        return manifest_text(metadata), parts
    need(is_there(index), "neither delta.safetensors nor its index")
    names = shard_names(index.read_bytes())
    need(len(list(delta.glob("delta-*-of-*.safetensors"))) == len(names), "a file that is no shard has such a name")
    text, parts, weights = "", {}, {}
    for number, name in enumerate(names):
        metadata, more = read_file(delta / name, canonical=True)
        need(not set(more) & set(parts), "a part twice")
        parts |= more
        weights |= dict.fromkeys(more, name)
        if number == 0:
            text = manifest_text(metadata)
        else:
            need(metadata == {"format": "deltagram"}, f"{name}: metadata")
    total = sum((delta / name).stat().st_size for name in names)
    written = json.dumps({"metadata": {"total_size": total}, "weight_map": weights}, indent=1)
    need(index.read_bytes() == written.encode(), "the index is not what the shards are")
    return text, parts


def shard_names(index: bytes) -> list[str]:
    """The files that an index names, which are numbered without a gap."""
    try:
        listed = json.loads(index.decode())
    except (ValueError, RecursionError) as fault:
        raise Refused("the index is no JSON") from fault
    need(type(listed) is dict and type(listed.get("weight_map")) is dict, "the index has no map")
    names = list(listed["weight_map"].values())
    need(all(type(name) is str for name in names), "the index names no files")
    count = len(set(names))
    expected = [f"delta-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    need(sorted(set(names)) == expected and names, "the shards have other names")
    return expected


def manifest_text(metadata: dict[str, str]) -> str:
    key = "deltagram" if "deltagram" in metadata else "deltagram_zstd"
    need(list(metadata) == ["format", key, "digest"] and metadata["format"] == "deltagram", "metadata")
    text = metadata[key] if key == "deltagram" else grown(metadata[key])
    need(blake3(utf8(text)).hexdigest() == metadata["digest"], "the manifest's digest")
    return text


def grown(packed: str) -> str:
    """A compressed manifest: one frame in base64 that declares its size, at most 256 times its own."""
    try:
        frame = base64.b64decode(packed, validate=True)
        size = zstandard.get_frame_parameters(frame).content_size
    except (ValueError, zstandard.ZstdError) as fault:
        raise Refused("the compressed manifest") from fault
    need(0 < size <= 256 * len(frame), "the size of the manifest")
    return unzstd(frame, size).decode()


def utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as fault:
        raise Refused("text that is no Unicode") from fault


def read_manifest(text: str) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise Refused("the manifest is no JSON") from fault
    need(type(manifest) is dict and compact(manifest) == text, "the manifest is not canonical")
    utf8(json.dumps(manifest, ensure_ascii=False))
    need(list(manifest) == MANIFEST_KEYS, f"the manifest's keys are {list(manifest)}")
    need(type(manifest["version"]) is int and manifest["version"] == 1, "the version")
    need(type(manifest["created_by"]) is str, "created_by")
    need(type(manifest["seed"]) is int and -(1 << 63) <= manifest["seed"] < 1 << 63, "the seed")
    keyed(manifest["base"], ["name", "digest", "tensors"])
    keyed(manifest["tuned"], ["name"])
    need(type(manifest["base"]["name"]) is str and type(manifest["tuned"]["name"]) is str, "the models' names")
    need(is_digest(manifest["base"]["digest"]) and is_count(manifest["base"]["tensors"]), "the base")
    for key in ("files", "dropped", "tensors"):
        need(type(manifest[key]) is dict, key)
    for name, file in manifest["files"].items():
        keyed(file, ["digest", "bytes", "stored"])
        need(safe(name) and is_digest(file["digest"]) and is_count(file["bytes"]), f"companion {name}")
        need(known(file["stored"], ("delta", "base")), f"companion {name} is stored in neither")
    for name, gone in manifest["dropped"].items():
        keyed(gone, ["shape", "dtype", "digest"])
        need(is_digest(gone["digest"]) and is_shape(gone["shape"]) and known(gone["dtype"], BITS), f"dropped {name}")
    return manifest


def keyed(value: object, keys: list[str]) -> None:
    need(type(value) is dict and list(value) == keys, f"keys are not {keys}")


def is_digest(value: object) -> bool:
    return type(value) is str and bool(HEX64.fullmatch(value))


def is_shape(value: object) -> bool:
    return type(value) is list and len(value) <= 64 and all(map(is_count, value))


NO_COMPANIONS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".ckpt", ".pkl")


def safe(name: str) -> bool:
    """Section 1: a companion's name; no part begins with a dot, so none is `.` or `..`."""
    parts = name.split("/")
    plain = "\\" not in name and len(utf8(name)) <= 255 and not name.endswith(NO_COMPANIONS)
    return plain and all(part and part[0] != "." for part in parts)


def read_entry(name: str, raw: Any) -> Entry:
    need(type(raw) is dict and name != "__metadata__", f"{name}: no entry")
    need(list(raw) == [key for key in ENTRY_KEYS if key in raw], f"{name}: keys {list(raw)}")
    need(is_shape(raw.get("shape")) and known(raw.get("dtype"), BITS), f"{name}: shape or dtype")
    form = raw.get("form")
    wanted = {
        "pruned": {"base_digest", "mask", "values", "digest"}, "resized": {"base_digest", "mask", "values", "digest"},
        "whole": {"digest"}, "same": {"base_digest"}, "exact": {"base_digest", "tuned_digest", "digest"},
        "low_rank": {"base_digest", "rank", "scale", "A", "B", "digest"},
    }.get(form if type(form) is str else "")  # fmt: skip
    need(wanted is not None, f"{name}: form {form}")
    found = set(raw) - {"shape", "dtype", "form", "base_name", "base_shape", "base_dtype"}
    found -= {"transposed"} if form == "low_rank" else set()
    need(found - ({"base_digest", "values"} if form == "whole" else set()) == wanted, f"{name}: keys of its form")
    for key in found & {"base_digest", "tuned_digest", "digest"}:
        need(is_digest(raw[key]), f"{name}: {key}")
    based = "base_digest" in raw
    need(based or not {"base_name", "base_shape", "base_dtype"} & set(raw), f"{name}: a base without a digest")
    need(raw.get("base_name") != name and type(raw.get("base_name", "")) is str, f"{name}: base_name")
    need(raw.get("base_shape") != raw["shape"] and is_shape(raw.get("base_shape", [])), f"{name}: base_shape")
    need(raw.get("base_dtype") != raw["dtype"] and known(raw.get("base_dtype", "F32"), BITS), f"{name}: base_dtype")
    entry = Entry(
        name=name, form=form, dtype=raw["dtype"], shape=tuple(raw["shape"]),
        base_name=raw.get("base_name", name) if based else None, base_dtype=raw.get("base_dtype", raw["dtype"]),
        base_shape=tuple(raw.get("base_shape", raw["shape"])), raw=raw,
    )  # fmt: skip
    check_form(entry)
    return entry


def check_form(entry: Entry) -> None:
    """Section 5's and 9's words about shapes and dtypes."""
    name, both = entry.name, {entry.dtype, entry.base_dtype}
    if entry.form == "resized":
        need(entry.shape and entry.base_shape and entry.shape[1:] == entry.base_shape[1:], f"{name}: resized")
        need(entry.shape != entry.base_shape, f"{name}: not resized")
    elif entry.form != "whole":
        need(entry.shape == entry.base_shape, f"{name}: the shapes differ")
    if entry.form in ("pruned", "resized"):
        need(both <= set(FLOATS), f"{name}: dtypes {both}")
        check_mask(entry)
        check_values(entry)
    elif entry.form == "low_rank":
        need(both <= set(FLOATS), f"{name}: dtypes {both}")
        check_factors(entry)
    elif entry.form in ("same", "exact"):
        need(len(both) == 1 or both <= set(FLOATS), f"{name}: dtypes {both}")
    elif is_coded(entry):
        need(entry.dtype in FLOATS and entry.size > 0, f"{name}: nothing to code")
        check_values(entry)


def is_coded(entry: Entry) -> bool:
    return entry.form == "whole" and "values" in entry.raw


def check_factors(entry: Entry) -> None:
    """Section 5: the two factors, each like a pruned matrix of float32 with zeros for a base."""
    name, raw, shape = entry.name, entry.raw, entry.shape
    need(len(shape) >= 2 and entry.size > 0, f"{name}: no matrix")
    rows, columns = shape[0], entry.size // shape[0]
    rank, scale = raw["rank"], raw["scale"]
    need(is_count(rank) and 1 <= rank <= min(rows, columns), f"{name}: rank")
    need(type(scale) is float and math.isfinite(scale), f"{name}: scale")
    need("transposed" not in raw or raw["transposed"] is True, f"{name}: transposed")
    outputs, inputs = (columns, rows) if "transposed" in raw else (rows, columns)
    for letter, sides in (("A", (rank, inputs)), ("B", (outputs, rank))):
        keyed(raw[letter], ["mask", "values"])
        factor = Entry(f"{name}:{letter}", "pruned", "F32", sides, None, "F32", sides, raw[letter])
        check_mask(factor)
        check_values(factor)
        entry.factors[letter] = factor


def masked(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Whatever has a mask, by its name."""
    found = {name: entry for name, entry in entries.items() if "mask" in entry.raw}
    for entry in entries.values():
        for factor in entry.factors.values():
            need(factor.name not in entries, f"{factor.name} is a tensor and a factor")
            found[factor.name] = factor
    return found


def check_mask(entry: Entry) -> None:
    mask, n = entry.raw["mask"], entry.size
    need(type(mask) is dict, f"{entry.name}: mask")
    kind = mask.get("kind")
    keys = {
        "stratified": ["kind", "keep", "check"], "bernoulli": ["kind", "threshold", "keep", "check"],
        "listed": ["kind", "keep", "score", "coding", "check"],
        "columns": ["kind", "columns", "score", *(["threshold"] if "threshold" in mask else []), "keep", "check"],
    }.get(kind if type(kind) is str else "")  # fmt: skip
    need(keys is not None, f"{entry.name}: mask {kind}")
    keyed(mask, keys or [])
    keep = mask["keep"]
    need(is_count(keep) and keep <= n, f"{entry.name}: keeps {keep}")
    need(type(mask["check"]) is str and re.fullmatch("[0-9a-f]{16}", mask["check"]), f"{entry.name}: check")
    if kind == "columns":
        count = mask["columns"]
        need(len(entry.common) == 2 and is_count(count), f"{entry.name}: columns")
        need(1 <= count <= entry.common[1] and count < 1 << 32, f"{entry.name}: {count} columns")
        need(known(mask["score"], ("random", "magnitude", "wanda")), f"{entry.name}: score")
        n = entry.common[0] * count
        need(keep <= n, f"{entry.name}: keeps {keep} of the columns")
    if kind == "bernoulli" or "threshold" in mask:
        need(is_count(mask["threshold"]) and mask["threshold"] <= 1 << 32, f"{entry.name}: threshold")
    else:
        need(keep >= 1, f"{entry.name}: keeps nothing")
    if kind == "stratified" or (kind == "columns" and "threshold" not in mask):
        need(keep < 1 << 32 and -(-n // keep) < 1 << 32, f"{entry.name}: strata")
    if kind == "listed":
        need(known(mask["score"], ("magnitude", "wanda")), f"{entry.name}: score")
        check_coding(entry, mask["coding"])


def check_coding(entry: Entry, coding: Any) -> None:
    need(type(coding) is dict, f"{entry.name}: coding")
    golomb = coding.get("coding") == "golomb"
    keyed(coding, ["coding", "divisor"] if golomb else ["coding"])
    need(golomb or known(coding.get("coding"), ("gaps", "bitmap")), f"{entry.name}: coding")
    need(not golomb or (is_count(coding["divisor"]) and 1 <= coding["divisor"] <= entry.size), f"{entry.name}: divisor")


def check_values(entry: Entry) -> None:
    values = entry.raw["values"]
    need(type(values) is dict, f"{entry.name}: values")
    codec = values.get("codec")
    keys = {"f32": [], "bf16": [], "f16": [], "uniform": ["bits", "group"], "codebook": ["bits"]}.get(
        codec if type(codec) is str else ""
    )
    need(keys is not None, f"{entry.name}: codec {codec}")
    keyed(values, ["codec", *(keys or []), *(["pack"] if "pack" in values else [])])
    need(values.get("pack", "zstd") == "zstd", f"{entry.name}: pack")
    need(not keys or (is_count(values["bits"]) and 1 <= values["bits"] <= 8), f"{entry.name}: bits")
    if codec == "uniform":
        group = values["group"]
        need(is_count(group) and group >= 1 and BLOCK % group == 0, f"{entry.name}: group")


def features(entries: dict[str, Entry]) -> list[str]:
    used = set()
    for entry in entries.values():
        used |= {entry.form} & {"resized", "exact", "low_rank"}
        used |= {"coded"} if is_coded(entry) else set()
    for entry in masked(entries).values():
        used |= {entry.raw["mask"]["kind"]} | ({entry.raw["mask"].get("score")} & {"wanda"})
    for entry in [*masked(entries).values(), *filter(is_coded, entries.values())]:
        values = entry.raw["values"]
        used |= ({values["codec"]} & {"uniform", "codebook"}) | ({"zstd"} if "pack" in values else set())
    return sorted(used)


def deal(entries: dict[str, Entry], parts: dict[str, Tensor]) -> None:
    """Every part to its entry: each that the manifest implies, with its dtype and shape, and no other."""
    entries = {**entries, **masked(entries)}
    given: dict[str, dict[str, Tensor]] = {name: {} for name in entries}
    for part, tensor in parts.items():
        name, colon, suffix = part.rpartition(":")
        need(colon and name in given, f"part {part} is of no tensor")
        given[name][suffix] = tensor
    for name, entry in entries.items():
        entry.parts = given[name]
        wanted = implied(entry)
        need(set(wanted) == set(entry.parts), f"{name}: parts {sorted(entry.parts)} and not {sorted(wanted)}")
        for suffix, (dtype, shape) in wanted.items():
            part = entry.parts[suffix]
            right = part.dtype == dtype and (part.shape == shape or (shape is None and len(part.shape) == 1))
            need(right, f"{name}:{suffix} is {part.dtype} {part.shape} and not {dtype} {shape}")


def implied(entry: Entry) -> dict[str, tuple[str, tuple[int, ...] | None]]:
    """Suffix to dtype and shape; a shape of None is one axis of any length."""
    if entry.form == "whole" and not is_coded(entry):
        return {"whole": (entry.dtype, entry.shape)}
    if entry.form == "exact":
        return {"planes": ("U8", None)}
    if entry.form in ("same", "low_rank"):
        return {}
    values, keep = entry.raw["values"], count_of(entry)
    plain = values["codec"] in ("f32", "bf16", "f16") and "pack" not in values
    wanted: dict[str, Any] = {"values": (values["codec"].upper(), (keep,)) if plain else ("U8", None)}
    if is_coded(entry):
        return wanted
    mask = entry.raw["mask"]
    if mask["kind"] == "bernoulli":
        wanted["counts"] = ("U32", (-(-entry.size // BLOCK),))
    if mask["kind"] == "columns":
        wanted["columns"] = ("U32", (mask["columns"],))
        if "threshold" in mask:
            wanted["counts"] = ("U32", (-(-entry.common[0] * mask["columns"] // BLOCK),))
    if mask["kind"] == "listed":
        wanted["positions"] = ("U8", None)
    if entry.form == "resized" and entry.shape[0] > entry.base_shape[0] and math.prod(entry.shape[1:]):
        wanted["rows"] = (entry.dtype, (entry.shape[0] - entry.base_shape[0], *entry.shape[1:]))
    return wanted


def read_scales(delta: Path, manifest: str, entries: dict[str, Entry]) -> None:
    """Section 8: every pruned entry's divisor."""
    path = delta / "scales.safetensors"
    metadata, tensors = read_file(path, canonical=True)
    need(len(read_header(path)[0]) % 8 == 0, "the header of the scales is not padded to a multiple of 8")
    need(read_header(path)[0] == padded(anew(metadata, tensors)), "the header of the scales has other spaces")
    need(list(metadata) == ["format", "manifest", "digest"] and metadata["format"] == "deltagram-scales", "scales")
    need(metadata["manifest"] == blake3(manifest.encode()).hexdigest(), "the scales are of another delta")
    joined = b"".join(tensor.digest(name) for name, tensor in tensors.items())
    need(metadata["digest"] == blake3(joined).hexdigest(), "the digest of the scales")
    entries = masked(entries)
    pruned = list(entries)
    need(set(tensors) == set(pruned), "the scales are not of the pruned tensors")
    for name in pruned:
        tensor, entry = tensors[name], entries[name]
        scalar = tensor.dtype == "F64" and tensor.shape == ()
        by_row = tensor.dtype in ("F32", "F16") and len(entry.shape) >= 2 and tensor.shape == entry.common[:1]
        need(scalar or by_row, f"{name}: divide_by is {tensor.dtype} {tensor.shape}")
        entry.divide_by = tensor.floats()
        with np.errstate(over="ignore", under="ignore"):
            for numbers in (entry.divide_by, entry.divide_by.astype(np.float32)):
                need(np.isfinite(numbers).all() and (numbers > 0).all(), f"{name}: divide_by")


def padded(header: bytes) -> bytes:
    return header + b" " * (-len(header) % 8)


# Section 6: masks


def philox(key: int, first: int, count: int) -> np.ndarray:
    """Words first to first + count of Philox4x32-10; first is a multiple of 4."""
    counters = np.arange(first // 4, (first + count + 3) // 4, dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    c = [counters & low, counters >> np.uint64(32), np.zeros_like(counters), np.zeros_like(counters)]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & low,
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & low,
        ]  # fmt: skip
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=1).ravel()[:count]


def positions(entry: Entry, seed: int) -> np.ndarray:
    """All kept positions, ascending, as Python's integers would have them."""
    mask = entry.raw["mask"]
    key = int.from_bytes(blake3(struct.pack("<q", seed) + entry.name.encode()).digest()[:8], "little")
    kinds = {"stratified": stratified, "bernoulli": bernoulli, "listed": listed, "columns": columns}
    found = kinds[mask["kind"]](entry, key)
    need(found.size == mask["keep"], f"{entry.name}: keeps {found.size}")
    check = blake3(found.astype("<u8").tobytes()).hexdigest()[:16]
    need(check == mask["check"], f"{entry.name}: check {check}")
    return found


def columns(entry: Entry, key: int) -> np.ndarray:
    """The mask of the chosen columns, as if they were a matrix of their own, and where its entries lie in the whole."""
    chosen = np.frombuffer(entry.parts["columns"].data, "<u4").tolist()
    rows, cols = entry.common
    need(all(a < b for a, b in itertools.pairwise(chosen)) and chosen[-1] < cols, f"{entry.name}: columns {chosen}")
    matrix = Entry(
        name=entry.name, form="pruned", dtype=entry.dtype, shape=(rows, len(chosen)), base_name=None, base_dtype="",
        base_shape=(), raw=entry.raw, parts=entry.parts,
    )  # fmt: skip
    inside = (bernoulli if "threshold" in entry.raw["mask"] else stratified)(matrix, key).tolist()
    return np.array([p // len(chosen) * cols + chosen[p % len(chosen)] for p in inside], np.uint64)


def stratified(entry: Entry, key: int) -> np.ndarray:
    n, k = entry.size, entry.raw["mask"]["keep"]
    words, q, r = philox(key, 0, k), n // k, n % k

    def start(i: int) -> int:
        return i * q + i * r // k

    kept = [start(i) + (int(words[i]) * (start(i + 1) - start(i)) >> 32) for i in range(k)]
    return np.array(kept, np.uint64)


def bernoulli(entry: Entry, key: int) -> np.ndarray:
    n, threshold = entry.size, entry.raw["mask"]["threshold"]
    kept = np.flatnonzero(philox(key, 0, n) < np.uint64(threshold))
    counts = np.frombuffer(entry.parts["counts"].data, "<u4")
    found = [int(((kept >= first) & (kept < first + BLOCK)).sum()) for first in range(0, n, BLOCK)]
    need(counts.tolist() == found, f"{entry.name}: counts")
    return kept.astype(np.uint64)


def bits_of(data: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")


def fields(bits: np.ndarray, count: int, width: int) -> np.ndarray:
    """`count` unsigned fields of `width` bits, least significant first."""
    if width == 0:
        return np.zeros(count, np.uint64)
    grid = bits[: count * width].reshape(count, width).astype(np.uint64)
    return (grid << np.arange(width, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)


# Section 10: listed positions


def listed(entry: Entry, key: int) -> np.ndarray:
    del key
    mask, data, n = entry.raw["mask"], entry.parts["positions"].data, entry.size
    keep, coding = mask["keep"], mask["coding"]
    blocks = -(-keep // BLOCK)
    table = 12 * (blocks - 1)
    need(len(data) >= table, f"{entry.name}: the table of the positions")
    rows = [struct.unpack_from("<QI", data, 12 * i) for i in range(blocks - 1)]
    start, at, found = 0, table, []
    for number in range(blocks):
        count = min(BLOCK, keep - number * BLOCK)
        stop, size = rows[number] if number < blocks - 1 else (n, len(data) - at)
        need(start + count <= stop <= n and 0 <= size <= len(data) - at, f"{entry.name}: the table of the positions")
        block = listed_block(coding, data[at : at + size], start, stop, count)
        need(all(a < b for a, b in itertools.pairwise(block)), f"{entry.name}: positions not ascending")
        need(block[0] >= start and block[-1] < stop, f"{entry.name}: positions outside their block")
        need(number == blocks - 1 or block[-1] == stop - 1, f"{entry.name}: a block does not stop at its last position")
        found += block
        start, at = stop, at + size
    need(at == len(data), f"{entry.name}: bytes after the positions")
    return np.array(found, np.uint64)


def listed_block(coding: dict[str, Any], data: bytes, start: int, stop: int, n: int) -> list[int]:
    if coding["coding"] == "bitmap":
        return bitmap(data, start, stop, n)
    gaps = golomb(data, coding["divisor"], n) if coding["coding"] == "golomb" else plain_gaps(data, start, stop, n)
    block, entry = [], start
    for gap in gaps:
        block.append(entry + gap)
        entry += gap + 1
    return block


def golomb(data: bytes, divisor: int, n: int) -> list[int]:
    bits = bits_of(data)
    k = divisor.bit_length() - 1
    u = (1 << (k + 1)) - divisor
    need(bits.size >= n * k, "golomb: too short")
    heads, at = fields(bits, n, k).tolist(), n * k
    remainders = []
    for head in heads:
        more = head >= u
        need(at < bits.size or not more, "golomb: too short")
        remainders.append(head * 2 + int(bits[at]) - u if more else head)
        at += more
    ones = np.flatnonzero(bits[at:])
    need(ones.size == n, "golomb: quotients")
    quotients = np.diff(ones, prepend=-1) - 1
    need((at + int(ones[-1])) // 8 == len(data) - 1, "golomb: bytes too many")
    return [int(q) * divisor + r for q, r in zip(quotients, remainders, strict=True)]


def plain_gaps(data: bytes, start: int, stop: int, n: int) -> list[int]:
    m = max(1, -(-(stop - start - n).bit_length() // 8))
    planes = np.frombuffer(unzstd(data, m * n), np.uint8).reshape(m, n)
    return [sum(int(planes[j, i]) << 8 * j for j in range(m)) for i in range(n)]


def bitmap(data: bytes, start: int, stop: int, n: int) -> list[int]:
    need(stop - start <= BITMAP_SPAN, "bitmap: too long")
    grid = bits_of(unzstd(data, (stop - start + 6) // 7)).reshape(-1, 8)
    need(not grid[:, 7].any(), "bitmap: a highest bit is set")
    kept = np.flatnonzero(grid[:, :7].ravel())
    need(kept.size == n, "bitmap: another number of positions")
    return [start + int(i) for i in kept]


def unzstd(data: bytes, size: int) -> bytes:
    """Exactly one zstd frame without dictionary that declares its content size, which is `size`."""
    try:
        frame = zstandard.get_frame_parameters(data)
        need(frame.content_size == size and frame.dict_id == 0, "zstd: another content size, or a dictionary")
        need(data[:4] == b"\x28\xb5\x2f\xfd", "zstd: no frame")
        content = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as fault:
        raise Refused("zstd: damaged") from fault
    need(len(content) == size, "zstd: another content size")
    return content


# Sections 7 and 11: values and plane streams


def plane_stream(data: bytes, sizes: list[list[int]]) -> list[list[bytes]]:
    """The planes of every block from their decoded sizes."""
    flat = [size for block in sizes for size in block]
    need(len(data) >= 4 * len(flat), "planes: the table")
    stored = struct.unpack_from(f"<{len(flat)}I", data)
    at, planes = 4 * len(flat), []
    for size, length in zip(flat, stored, strict=True):
        need(length <= size and at + length <= len(data), "planes: a plane too large")
        piece = data[at : at + length]
        planes.append(piece if length == size else unzstd(piece, size))
        at += length
    need(at == len(data), "planes: bytes after the last")
    width = len(sizes[0]) if sizes else 0
    return [planes[i * width : (i + 1) * width] for i in range(len(sizes))]


def counts_of(total: int) -> list[int]:
    return [min(BLOCK, total - first) for first in range(0, total, BLOCK)]


def words_of(planes: list[bytes]) -> np.ndarray:
    """Words from their byte planes, lowest byte first."""
    total = np.zeros(len(planes[0]), np.uint64)
    for j, plane in enumerate(planes):
        total |= np.frombuffer(plane, np.uint8).astype(np.uint64) << np.uint64(8 * j)
    return total


def count_of(entry: Entry) -> int:
    """K of section 7: all entries of a coded whole tensor, else those that the mask keeps."""
    return entry.size if is_coded(entry) else entry.raw["mask"]["keep"]


def values_of(entry: Entry) -> np.ndarray:
    values, keep, data = entry.raw["values"], count_of(entry), entry.parts["values"].data
    need("pack" not in values or len(data) >= 4 * -(-keep // BLOCK), f"{entry.name}: fewer sizes than blocks")
    codec = values["codec"]
    if codec in ("f32", "bf16", "f16"):
        found = float_values(codec.upper(), data, keep, packed="pack" in values)
    else:
        found = (uniform if codec == "uniform" else codebook)(values, data, keep)
    need(np.isfinite(found).all(), f"{entry.name}: values not finite")
    need(found.size == keep, f"{entry.name}: {found.size} values")
    return found


def float_values(dtype: str, data: bytes, keep: int, *, packed: bool) -> np.ndarray:
    kind = FLOATS[dtype]
    if packed:
        width = kind.itemsize
        planes = plane_stream(data, [[n] * width for n in counts_of(keep)])
        rotated = np.concatenate([np.zeros(0, np.uint64), *(words_of(block) for block in planes)])
        top = np.uint64(8 * width - 1)
        patterns = (rotated >> np.uint64(1)) | ((rotated & np.uint64(1)) << top)
        data = patterns.astype(f"<u{width}").tobytes()
    return np.frombuffer(data, kind).astype(np.float32)


def unpack_codes(data: bytes, count: int, width: int, *, packed: bool) -> np.ndarray:
    """A code a value: bit fields, or bytes in packed planes of odd widths."""
    if packed and width not in (1, 2, 4, 8):
        codes = np.frombuffer(data, np.uint8).astype(np.uint64)
    else:
        bits = bits_of(data)
        need(not bits[count * width :].any(), "codes: bits after the last")
        codes = fields(bits, count, width)
    need(codes.size == count and (count == 0 or int(codes.max()) < 1 << width), "codes: too large")
    return codes


def code_bytes(count: int, width: int, *, packed: bool) -> int:
    return count if packed and width not in (1, 2, 4, 8) else -(-count * width // 8)


def uniform(values: dict[str, Any], data: bytes, keep: int) -> np.ndarray:
    width, group, packed = values["bits"], values["group"], "pack" in values
    if packed:
        sizes = [[-(-n // group)] * 2 + [code_bytes(n, width, packed=True)] for n in counts_of(keep)]
        pieces = [(*block, n) for block, n in zip(plane_stream(data, sizes), counts_of(keep), strict=True)]
    else:
        groups = -(-keep // group)
        need(len(data) == 2 * groups + code_bytes(keep, width, packed=False), "values: another number of bytes")
        pieces = [(data[: 2 * groups : 2], data[1 : 2 * groups : 2], data[2 * groups :], keep)]
    found = [np.zeros(0, np.float32)]
    for low, high, codes, count in pieces:
        scales = (words_of([low, high]) << np.uint64(16)).astype("<u4").view("<f4")
        need(np.isfinite(scales).all(), "values: a scale is not finite")
        spread = np.repeat(scales, group)[:count]
        code = unpack_codes(codes, count, width, packed=packed)
        found.append(levels(code, spread, width))
    return np.concatenate(found)


def levels(code: np.ndarray, scales: np.ndarray, width: int) -> np.ndarray:
    if width == 1:
        return np.where(code == 1, scales, -scales)
    need(not (code == (1 << width) - 1).any(), "values: the code that is an error")
    middle = (1 << (width - 1)) - 1
    with np.errstate(over="ignore"):
        return (code.astype(np.int64) - middle).astype(np.float32) * scales


def codebook(values: dict[str, Any], data: bytes, keep: int) -> np.ndarray:
    width, packed = values["bits"], "pack" in values
    head = 4 << width
    need(len(data) >= head, "values: no codebook")
    book, rest = np.frombuffer(data[:head], "<f4"), data[head:]
    need(np.isfinite(book).all(), "values: the codebook is not finite")
    if packed:
        blocks = plane_stream(rest, [[code_bytes(n, width, packed=True)] for n in counts_of(keep)])
        pieces = [(block[0], n) for block, n in zip(blocks, counts_of(keep), strict=True)]
    else:
        need(len(rest) == code_bytes(keep, width, packed=False), "values: another number of bytes")
        pieces = [(rest, keep)]
    found = [book[unpack_codes(codes, n, width, packed=packed)] for codes, n in pieces]
    return np.concatenate([np.zeros(0, np.float32), *found])


# Sections 5, 8 and 9: restoring


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Each number rounded once, to nearest-even, to `dtype`; a NaN to the quiet one of its sign."""
    target = FLOATS[dtype]
    if array.dtype == target:
        return array
    with np.errstate(all="ignore"):
        if array.dtype == np.float64 and dtype == "BF16":
            array = to_odd(array)
        elif FLOATS["BF16"] in (array.dtype, target):
            array = array.astype(np.float32)
        found = array.astype(target)
    word = np.dtype(f"<u{target.itemsize}")
    quiet = np.array(np.nan, target).view(word) & word.type((1 << (8 * target.itemsize - 1)) - 1)
    sign = np.signbit(array).astype(word) << word.type(8 * target.itemsize - 1)
    return np.where(np.isnan(array), sign | quiet, found.view(word)).astype(word).view(target)


def to_odd(array: np.ndarray) -> np.ndarray:
    """float64 to float32, whose last bit says whether anything was cut off: rounding that loses no tie."""
    single = array.astype(np.float32)
    wide, bits = single.astype(np.float64), single.view(np.uint32)
    cut = np.where(np.abs(wide) > np.abs(array), bits - np.uint32(1), bits)
    return np.where(wide != array, cut | np.uint32(1), cut).view(np.float32)


def pruned_bytes(entry: Entry, base: Tensor, seed: int) -> bytes:
    """The pruned rows of a tensor, and what follows them in a resized one."""
    values, kept = values_of(entry), positions(entry, seed).astype(np.int64)
    start = base.floats()[: entry.size]
    result = np.array(rounded(start, entry.dtype))
    working = np.float64 if "F64" in (entry.dtype, entry.base_dtype) else np.float32
    assert entry.divide_by is not None
    divide_by = entry.divide_by.astype(working)
    if divide_by.size > 1:
        divide_by = divide_by.reshape(-1)[kept // (entry.size // entry.common[0])]
    with np.errstate(all="ignore"):
        changed = rounded(start[kept].astype(working) + values.astype(working) / divide_by, entry.dtype)
        need(np.isfinite(changed.astype(np.float64)).all(), f"{entry.name}: an entry is not finite")
    result[kept] = changed
    return result.tobytes() + (entry.parts["rows"].data if "rows" in entry.parts else b"")


def exact_bytes(entry: Entry, base: Tensor) -> bytes:
    floating = entry.dtype in FLOATS
    start = rounded(base.floats(), entry.dtype).tobytes() if floating else base.data
    width = max(1, BITS[entry.dtype] // 8)
    if BITS[entry.dtype] % 8:
        width = 1
    planes = plane_stream(entry.parts["planes"].data, [[n] * width for n in counts_of(len(start) // width)])
    words = [int(word) for block in planes for word in words_of(block)]
    patterns = np.frombuffer(start, f"<u{width}").tolist()
    step = unstep if floating else (lambda pattern, word, _: pattern ^ word)
    data = b"".join(step(p, w, 8 * width).to_bytes(width, "little") for p, w in zip(patterns, words, strict=True))
    found = Tensor(entry.dtype, entry.shape, data).digest(entry.name).hex()
    need(found == entry.raw["tuned_digest"], f"{entry.name}: tuned_digest")
    return data


def unstep(pattern: int, word: int, w: int) -> int:
    """Undo the zigzag, then the map, in w bits."""
    ones, top = (1 << w) - 1, 1 << (w - 1)
    step = (word >> 1) ^ (ones if word & 1 else 0)
    mapped = (~pattern if pattern & top else pattern | top) & ones
    found = (mapped + step) & ones
    return found ^ top if found & top else ~found & ones


def dense(factor: Entry, seed: int) -> np.ndarray:
    """A factor: zeros, and what its mask keeps."""
    zeros = Tensor("F32", factor.shape, bytes(4 * factor.size))
    return np.frombuffer(pruned_bytes(factor, zeros, seed), "<f4").reshape(factor.shape)


def low_rank_bytes(entry: Entry, base: Tensor, seed: int) -> bytes:
    a, b = (dense(entry.factors[letter], seed).astype(np.float64) for letter in "AB")
    with np.errstate(all="ignore"):
        product = np.zeros((b.shape[0], a.shape[1]))
        for j in range(entry.raw["rank"]):
            product = product + b[:, j : j + 1] * a[j : j + 1]
        product = entry.raw["scale"] * product
        product = product.T if "transposed" in entry.raw else product
        working = np.float64 if "F64" in (entry.dtype, entry.base_dtype) else np.float32
        start = base.floats().astype(working)
        moved = rounded(start + product.astype(working).reshape(-1), entry.dtype)
    need(np.isfinite(moved.astype(np.float64)).all(), f"{entry.name}: an entry is not finite")
    return moved.tobytes()


def restored_bytes(entry: Entry, base: dict[str, Tensor], seed: int) -> bytes:
    if entry.raw.get("digest") is not None:
        parts = entry.parts | {f"{f}:{s}": part for f in entry.factors for s, part in entry.factors[f].parts.items()}
        joined = b"".join(parts[s].digest(f"{entry.name}:{s}") for s in sorted(parts))
        need(blake3(joined).hexdigest() == entry.raw["digest"], f"{entry.name}: payload digest")
    if is_coded(entry):
        with np.errstate(over="ignore"):
            found = rounded(values_of(entry), entry.dtype)
        need(np.isfinite(found.astype(np.float64)).all(), f"{entry.name}: an entry is not finite")
        return found.tobytes()
    if entry.form == "whole":
        return entry.parts["whole"].data
    assert entry.base_name is not None
    source = base[entry.base_name]
    if entry.form == "exact":
        return exact_bytes(entry, source)
    if entry.form == "same":
        same = entry.dtype == entry.base_dtype
        return source.data if same else rounded(source.floats(), entry.dtype).tobytes()
    if entry.form == "low_rank":
        return low_rank_bytes(entry, source, seed)
    return pruned_bytes(entry, source, seed)


def check_base(manifest: dict[str, Any], entries: dict[str, Entry], base: dict[str, Tensor]) -> None:
    """Section 12: names, shapes and dtypes, then every digest."""
    used = [entry for entry in entries.values() if entry.base_name is not None]
    wanted = [(entry.base_name, entry.base_dtype, entry.base_shape, entry.raw["base_digest"]) for entry in used]
    dropped = [
        (name, gone["dtype"], tuple(gone["shape"]), gone["digest"]) for name, gone in manifest["dropped"].items()
    ]
    need(not {name for name, *_ in dropped} & {name for name, *_ in wanted}, "a base tensor dropped and used")
    digests = {name: digest for name, _, _, digest in wanted + dropped}
    need(manifest["base"]["tensors"] == len(digests), "the number of base tensors")
    whole = b"".join(bytes.fromhex(digests[name]) for name in sorted(digests, key=utf8))
    need(blake3(whole).hexdigest() == manifest["base"]["digest"], "the whole digest of the base")
    need(set(digests) == set(base), "the base has other tensors")
    for name, dtype, shape, digest in wanted + dropped:
        tensor = base[name]
        need((tensor.dtype, tensor.shape) == (dtype, shape), f"base {name}: dtype or shape")
        need(tensor.digest(name).hex() == digest, f"base {name}: digest")


def is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def check_companions(files: dict[str, Any], delta: Path, base: Path) -> None:
    for name, file in files.items():
        folder = delta if file["stored"] == "delta" else base if base.is_dir() else base.parent
        path = folder / name
        need(is_there(path), f"companion {name} is missing")
        data = path.read_bytes()
        need(len(data) == file["bytes"] and blake3(data).hexdigest() == file["digest"], f"companion {name} differs")


def restored(base: Path, delta: Path) -> dict[str, Tensor]:
    """Every tuned tensor, or Refused."""
    text, parts = read_parts(delta)
    manifest = read_manifest(text)
    requires = manifest["requires"]
    need(type(requires) is list and all(known(word, FEATURES) for word in requires), "a feature unknown")
    entries = {name: read_entry(name, raw) for name, raw in manifest["tensors"].items()}
    need(manifest["requires"] == features(entries), "requires is not what the tensors use")
    deal(entries, parts)
    read_scales(delta, text, entries)
    check_companions(manifest["files"], delta, base)
    tensors = read_checkpoint(base)
    check_base(manifest, entries, tensors)
    found = {}
    for name, entry in entries.items():
        data = restored_bytes(entry, tensors, manifest["seed"])
        need(len(data) == nbytes(entry.dtype, entry.shape), f"{name}: {len(data)} bytes")
        found[name] = Tensor(entry.dtype, entry.shape, data)
    return found
