"""Changing a library: one writer at a time, and every change happens whole or not at all."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deltagram.errors import LibraryError, OutputError
from deltagram.store.library import FILE, LOCK, PAYLOADS, VARIANTS, open_base, read_entries
from deltagram.store.libraryentry import Entry, LibraryBase
from deltagram.store.librarypayload import check_files, copy_files
from deltagram.store.staging import fsync_path, recover, staged

STAGED: Final = ".staged-"  # payloads on their way in, or out


def create(path: Path, base: LibraryBase) -> None:
    """Make an empty library at `path`, which must not exist. Raises OutputError."""
    recover(path)
    if os.path.lexists(path):
        raise OutputError(str(path), "exists already", fix="choose another place for the library")
    with staged(path) as folder:
        (folder / VARIANTS).mkdir()
        (folder / PAYLOADS).mkdir()
        (folder / LOCK).touch()
        (folder / FILE).write_text(base.text(), "utf-8")


@contextmanager
def locked(path: Path, *, shared: bool = False, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of a library, which ends with the process; `waiting` is called once if another holds it."""
    try:
        fd = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | (0 if shared else os.O_CREAT), 0o644)
    except OSError as fault:
        raise LibraryError(
            str(path / LOCK), f"cannot be locked ({fault.strerror})", expected="a file that may be opened"
        ) from None
    way = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        try:
            fcntl.flock(fd, way | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(fd, way)
        yield
    finally:
        os.close(fd)


@dataclass(frozen=True, kw_only=True)
class Writer:
    """The one that may change a library now."""

    path: Path

    def check_free(self, name: str, *, force: bool) -> None:
        """Raise LibraryError for a name that is taken (unless `force`), or that differs by case alone from one."""
        for other in self._names():
            if other == name and not force:
                raise LibraryError(
                    str(self.path), f"has a variant {name!r} already",
                    fix="choose another --name, or replace it with --force",
                )  # fmt: skip
            if other != name and other.lower() == name.lower():
                raise LibraryError(
                    str(self.path), f"has a variant {other!r}, which differs from {name!r} by case alone",
                    fix="choose another --name: some file systems cannot tell them apart",
                )  # fmt: skip

    def put(self, entry: Entry, source: Path, *, force: bool, copied: Callable[[int], None]) -> bool:
        """Add a variant from the directory its files are in; returns whether its payload was here already.

        The payload is there, flushed, before the entry that names it. Raises LibraryError for a name that is taken.
        """
        self.check_free(entry.name, force=force)
        shared = self._stage(entry, source, copied=copied)
        self._write(self.path / VARIANTS / f"{entry.name}.json", entry.text())
        if force:
            self.clear()
        return shared

    def held(self, name: str) -> Entry | None:
        """The entry of a variant, if there is one that can be read."""
        return read_entries(self.path)[0].get(name)

    def drop(self, name: str) -> None:
        """Take a variant away, and its payload if no other has it. Raises LibraryError for a name it has not."""
        names = self._names()
        if name not in names:
            held = ", ".join(names[:8]) or "none"
            raise LibraryError(str(self.path), f"has no variant {name!r}", expected=f"one of its {len(names)}: {held}")
        (self.path / VARIANTS / f"{name}.json").unlink()
        fsync_path(self.path / VARIANTS)
        self.clear()

    def clear(self) -> int:
        """Remove what no entry names: payloads of removed variants, and what killed runs left. Returns how many.

        While an entry is unreadable no payload goes, for it may be that entry's.
        """
        entries, faults = read_entries(self.path)
        used = {entry.payload for entry in entries.values()}
        stale = [*leftovers(self.path, used if not faults else None)]
        for path in stale:
            _take_away(path)
        return len(stale)

    def _names(self) -> list[str]:
        return sorted(file.stem for file in (self.path / VARIANTS).glob("*.json") if not file.name.startswith("."))

    def _stage(self, entry: Entry, source: Path, *, copied: Callable[[int], None]) -> bool:
        place = self.path / PAYLOADS / entry.payload
        if _intact(place, entry):
            return True
        folder = self.path / PAYLOADS / f"{STAGED}{secrets.token_hex(6)}"
        folder.mkdir()
        try:
            copy_files(source, entry.files, folder, copied=copied)
            for parent, _, _ in os.walk(folder):
                fsync_path(Path(parent))
            _take_away(place)  # where it is damaged
            folder.rename(place)
            fsync_path(place.parent)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return False

    def _write(self, file: Path, text: str) -> None:
        fresh = file.parent / f".{file.name}"
        with fresh.open("w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(file)
        fsync_path(file.parent)


def _intact(place: Path, entry: Entry) -> bool:
    try:
        check_files(place, entry.files, name=entry.name)
    except LibraryError:
        return False
    return True


def _take_away(path: Path) -> None:
    """Remove what is there, if anything; a directory is never seen half there."""
    if path.is_dir() and not path.is_symlink():
        aside = path.parent / f"{STAGED}{secrets.token_hex(6)}"
        path.rename(aside)
        shutil.rmtree(aside)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, *, waiting: Callable[[], None] = lambda: None) -> Iterator[Writer]:
    """The library, held against other writers, after what killed runs left is cleared.

    Raises LibraryError for what is no library, OutputError where it cannot be written.
    """
    open_base(path)
    with locked(path, waiting=waiting):
        writer = Writer(path=path)
        try:
            writer.clear()
            yield writer
        except OSError as fault:
            if fault.filename is not None and path not in Path(os.fsdecode(fault.filename)).parents:
                raise
            fix = "make room, or allow writing there; the library is as it was"
            raise OutputError(str(path), f"cannot be written ({fault.strerror or fault})", fix=fix) from None


def leftovers(path: Path, used: set[str] | None) -> Iterator[Path]:
    """What runs that were killed left: unfinished files and, unless `used` is unknown, payloads that no entry names."""
    yield from (path / VARIANTS).glob(".*.json")
    for place in (path / PAYLOADS).iterdir():
        if place.name.startswith(STAGED) or (used is not None and is_digest(place.name) and place.name not in used):
            yield place


def is_digest(name: str) -> bool:
    """Whether a directory is named as a payload is."""
    return len(name) == 64 and set(name) <= set("0123456789abcdef")
