"""What a library holds, at a glance."""

from pathlib import Path
from typing import Any

from deltagram.records import Meter, Record
from deltagram.store.library import open_library


def library_list(library: Path | str) -> Record:
    """Every variant with size, rate (bytes of the base over its own), method and quality, and the totals.

    `shared`: the other variants with the same payload, which is stored once. Nothing but the entries is read.
    Raises LibraryError.
    """
    meter = Meter.start()
    opened = open_library(library)
    base = opened.base
    rows: dict[str, dict[str, Any]] = {}
    for name, entry in opened.variants.items():
        others = [other for other, held in opened.variants.items() if held.payload == entry.payload and other != name]
        row = entry.model_dump(mode="json", exclude={"files", "version", "name"})
        rows[name] = row | {"rate": round(base.bytes / max(1, entry.bytes), 2), "shared": others}
    stored = sum({entry.payload: entry.bytes for entry in opened.variants.values()}.values())
    numbers = {
        **meter.numbers(), "base": base.model_dump(mode="json"), "variants": rows, "stored_bytes": stored,
        "total_bytes": base.bytes + stored, "checkpoint_bytes": base.bytes * len(rows),
    }  # fmt: skip
    return Record(job="library_list", settings={"library": str(library)}, numbers=numbers)
