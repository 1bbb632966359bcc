"""What a page shows of a library: plain data made from its entries."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Protocol


class Base(Protocol):
    """The base that all variants share."""

    @property
    def name(self) -> str:
        """A path or a Hub id."""

    @property
    def bytes(self) -> int:
        """Of its files."""


class Entry(Protocol):
    """A variant, as the library has it."""

    kind: Any
    payload: str
    bytes: int
    method: str
    keep: float | None
    values: str
    added: str
    note: str
    quality: Mapping[str, float]


class Opened(Protocol):
    """A library that was opened."""

    @property
    def base(self) -> Base:
        """Its base."""

    @property
    def variants(self) -> Mapping[str, Any]:
        """Its entries by name."""


def about(library: Opened) -> dict[str, Any]:
    """Base, variants, and bytes: `stored_bytes` counts an equal payload once, `full_bytes` a whole checkpoint each.

    `rate` is the base's bytes divided by the variant's. Names of folders are left out but for the last.
    """
    base = {"name": PurePath(library.base.name).name, "bytes": library.base.bytes}
    payloads = {entry.payload: entry.bytes for entry in library.variants.values()}
    return {
        "base": base,
        "variants": [_row(name, entry, base=library.base.bytes) for name, entry in library.variants.items()],
        "stored_bytes": library.base.bytes + sum(payloads.values()),
        "full_bytes": library.base.bytes * (1 + len(library.variants)),
    }


def _row(name: str, entry: Entry, *, base: int) -> dict[str, Any]:
    return {
        "name": name,
        "kind": str(entry.kind),
        "bytes": entry.bytes,
        "rate": round(base / entry.bytes, 2) if entry.bytes else None,
        "method": entry.method,
        "keep": entry.keep,
        "values": entry.values,
        "quality": dict(entry.quality),
        "note": entry.note,
        "added": entry.added,
    }
