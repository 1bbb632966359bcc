"""Whether a library is as it was written, to the last byte."""

from collections.abc import Iterator
from pathlib import Path

from deltagram.errors import LibraryError
from deltagram.store.companions import file_digest
from deltagram.store.library import FILE, LOCK, PAYLOADS, VARIANTS, Library
from deltagram.store.libraryentry import Entry, PayloadFile
from deltagram.store.librarywriter import leftovers

_FIX = "bring it back from a copy, or remove the variant and add it again"


def check_payload(library: Library, name: str) -> None:
    """Raise LibraryError unless a variant's payload has exactly the files that its entry names, to the last byte."""
    entry, place = library.entry(name), library.payload(name)
    if place.is_symlink() or not place.is_dir():
        raise LibraryError(str(place), f"is missing, and the entry of {name} names it", fix=_FIX)
    folders = {parent.as_posix() for file in entry.files for parent in Path(file).parents}
    for path in sorted(place.rglob("*")):
        inside = path.relative_to(place).as_posix()
        if path.is_symlink() or not (inside in entry.files if path.is_file() else inside in folders):
            raise LibraryError(str(path), f"is no file of the variant {name}", fix="take it away")
    for file, said in entry.files.items():
        _check_file(place / file, said)


def _check_file(path: Path, said: PayloadFile) -> None:
    if not path.is_file():
        raise LibraryError(str(path), "is missing", expected=f"{said.bytes:,} bytes", fix=_FIX)
    digest, size = file_digest(path)
    if size != said.bytes:
        raise LibraryError(str(path), f"has {size:,} bytes", expected=f"{said.bytes:,}", fix=_FIX)
    if digest != said.digest:
        raise LibraryError(str(path), f"has digest {digest[:16]}...", expected=f"{said.digest[:16]}...", fix=_FIX)


def strangers(path: Path, entries: dict[str, Entry], *, all_read: bool) -> Iterator[LibraryError]:
    """A fault for each file or directory that no library has."""
    used = {entry.payload for entry in entries.values()} if all_read else None
    known = {path / name for name in (FILE, LOCK, VARIANTS, PAYLOADS)} | set(leftovers(path, used))
    known |= {path / PAYLOADS / digest for digest in ({entry.payload for entry in entries.values()})}
    if not all_read:
        known |= set((path / PAYLOADS).iterdir())
    for place in sorted([*path.iterdir(), *(path / VARIANTS).iterdir(), *(path / PAYLOADS).iterdir()]):
        if place not in known and not (place.parent.name == VARIANTS and place.suffix == ".json"):
            yield LibraryError(str(place), "belongs to no variant", fix="take it away")
