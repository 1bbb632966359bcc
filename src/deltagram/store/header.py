"""The header of a safetensors file: strict reading, canonical writing."""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deltagram.arrays import DTYPES, Spec

LARGEST = 100_000_000  # bytes, as in the safetensors library
METADATA = "__metadata__"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A tensor and where its bytes lie: offsets from the start of the file."""

    spec: Spec
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a safetensors header says. `raw` is its JSON text as stored, padding included."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, Placed]
    raw: bytes


def read_header(data: memoryview) -> Header:
    """Parse and check the header of a whole file; nothing is believed that the file's size does not allow.

    Raises ValueError in words for any fault: truncation, length, JSON, duplicate names, unknown dtypes, holes,
    overlaps, or data that do not end where the file ends.
    """
    if len(data) < 8:
        raise ValueError(f"the file has {len(data)} bytes, too few for a safetensors header")
    if bytes(data[:8]) == b"version ":
        raise ValueError("the file is a Git LFS pointer, not the tensors themselves: git lfs pull fetches them")
    (length,) = struct.unpack("<Q", data[:8])
    if length > LARGEST or length > len(data) - 8:
        raise ValueError(f"the header claims {length:,} bytes, the file has {len(data):,}")
    raw = bytes(data[8 : 8 + length])
    try:
        parsed = json.loads(raw.decode(), object_pairs_hook=_unique)
    except (RecursionError, UnicodeDecodeError, json.JSONDecodeError) as fault:
        raise ValueError(f"the header is not JSON ({type(fault).__name__})") from None
    if _SURROGATE.search(json.dumps(parsed, ensure_ascii=False)):
        raise ValueError("the header has text that UTF-8 cannot hold (a lone surrogate such as \\ud800)")
    if not isinstance(parsed, dict):
        raise ValueError("the header is not a JSON object")
    metadata = parsed.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("__metadata__ does not map text to text")
    origin = 8 + length
    tensors = {name: _placed(name, entry, origin) for name, entry in parsed.items()}
    _check_layout(tensors, origin, len(data))
    return Header(metadata=metadata, tensors=tensors, raw=raw)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the header has the name {name!r} twice")
        found[name] = value
    return found


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _placed(name: str, entry: object, origin: int) -> Placed:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name}: the entry does not hold dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name}: unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(_whole(side) for side in shape):
        raise ValueError(f"{name}: the shape is not a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_whole(offset) for offset in offsets):
        raise ValueError(f"{name}: the offsets are not two sizes")
    spec = Spec(dtype=dtype, shape=tuple(shape))
    start, stop = offsets
    if spec.size * DTYPES[dtype].width % 8:
        raise ValueError(f"{name}: {spec} does not end at a whole byte")
    if stop - start != spec.nbytes:
        raise ValueError(f"{name}: {spec} takes {spec.nbytes:,} bytes, its offsets span {stop - start:,}")
    return Placed(spec=spec, start=origin + start, stop=origin + stop)


def _check_layout(tensors: Mapping[str, Placed], origin: int, end: int) -> None:
    at = origin
    for name, placed in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if placed.start != at:
            raise ValueError(f"{name}: the data start at byte {placed.start:,}, not at {at:,}: a hole or an overlap")
        at = placed.stop
    if at != end:
        raise ValueError(f"the tensors end at byte {at:,}, the file at {end:,}")


def header_text(specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> bytes:
    """The canonical JSON of a header: metadata first, tensors in data order, no spaces, ASCII."""
    content: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name, spec in specs.items():
        offsets = [at, at + spec.nbytes]
        content[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": offsets}
        at = offsets[1]
    return json.dumps(content, separators=(",", ":")).encode()


def framed(text: bytes, *, length: int | None = None) -> bytes:
    """Length prefix and text, padded with spaces to `length` (default: the next multiple of 8)."""
    padded = -(-len(text) // 8) * 8 if length is None else length
    if len(text) > padded:
        raise ValueError(f"a header of {len(text):,} bytes does not fit the {padded:,} reserved")
    return struct.pack("<Q", padded) + text.ljust(padded)
