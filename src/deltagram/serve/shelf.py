"""What a library holds now, read again when its folder changes."""

import threading
from pathlib import Path

from deltagram.store.library import VARIANTS, Library, open_library
from deltagram.store.libraryentry import LibraryBase


class Shelf:
    """A library that writers may change meanwhile. Raises LibraryError for what is none."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._library, self._stamp = open_library(path), -1  # read again when first asked: it may change meanwhile

    @property
    def base(self) -> LibraryBase:
        """Its base."""
        return self._library.base

    def names(self) -> list[str]:
        """Names of its variants, sorted."""
        return list(self._read().variants)

    def payload(self, name: str) -> tuple[str, Path]:
        """Digest and folder of a variant. Raises LibraryError for a name it has not."""
        library = self._read()
        return library.entry(name).payload, library.payload(name)

    def _read(self) -> Library:
        with self._lock:
            stamp = self._now()
            if stamp != self._stamp:
                self._library, self._stamp = open_library(self._path), stamp
            return self._library

    def _now(self) -> int:
        """Changes whenever an entry comes, goes or is replaced, since each of them is a rename in this folder."""
        return (self._path / VARIANTS).stat().st_mtime_ns
