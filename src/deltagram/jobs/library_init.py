"""A base -> an empty library of its variants."""

import os
from pathlib import Path

from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.checkpoint import open_checkpoint
from deltagram.store.digest import whole_digest
from deltagram.store.libraryentry import LibraryBase
from deltagram.store.librarywriter import create


def library_init(
    base: Path | str, out: Path | str, *, hub_id: str | None = None, progress: Progress = SILENT
) -> Record:
    """Make an empty library at `out` whose variants all belong to `base`, a directory or `.safetensors` file.

    The base is hashed, not copied: the library refers to it by `hub_id` where it came from the Hub, else by its path,
    seen from the library if it was given as a relative one.
    Raises CheckpointError for what is no checkpoint, OutputError where `out` exists or cannot be written.
    """
    meter = Meter.start()
    base, out = Path(base), Path(out)
    opened = open_checkpoint(base)
    digests: dict[str, str] = {}
    for done, name in enumerate(opened.specs, 1):
        digests[name] = opened.digest(name)
        progress.advance("hashing the base", done, len(opened.specs))
    where = Path(os.path.realpath(base.parent)) / base.name if base.name else Path(os.path.realpath(base))
    seen = where if base.is_absolute() else os.path.relpath(where, os.path.realpath(out))
    made = LibraryBase(
        name=hub_id or str(seen), where="path" if hub_id is None else "hub", digest=whole_digest(digests),
        tensors=len(digests), bytes=opened.nbytes,
    )  # fmt: skip
    create(out, made)
    numbers = {
        **meter.numbers(), "base": made.name, "base_digest": made.digest, "base_tensors": made.tensors,
        "base_bytes": made.bytes,
    }  # fmt: skip
    return Record(job="library_init", settings={"base": hub_id or str(base), "out": str(out)}, numbers=numbers)
