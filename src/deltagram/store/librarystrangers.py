"""What lies in a library and belongs to nothing in it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from deltagram.errors import LibraryError
from deltagram.store.library import FILE, LOCK, PAYLOADS, VARIANTS
from deltagram.store.libraryentry import Entry
from deltagram.store.librarywriter import leftovers


def strangers(path: Path, entries: Mapping[str, Entry], *, all_read: bool) -> Iterator[LibraryError]:
    """A fault for each file or directory that no library has; what killed runs left is none.

    Unless all entries could be read (`all_read`), any payload may be that of another.
    """
    used = {entry.payload for entry in entries.values()}
    known = {path / name for name in (FILE, LOCK, VARIANTS, PAYLOADS)}
    known |= {path / PAYLOADS / digest for digest in used} | set(leftovers(path, used if all_read else None))
    if not all_read:
        known |= set((path / PAYLOADS).iterdir())
    for place in sorted([*path.iterdir(), *(path / VARIANTS).iterdir(), *(path / PAYLOADS).iterdir()]):
        if place not in known and not (place.parent == path / VARIANTS and place.suffix == ".json"):
            yield LibraryError(str(place), "belongs to no variant", fix="take it away")
