"""A library: a folder with a reference to one base, and variants of it. Reading it takes no lock."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deltagram.errors import LibraryError
from deltagram.store.libraryentry import Entry, LibraryBase, read_base, read_entry

FILE: Final = "library.json"
VARIANTS: Final = "variants"
PAYLOADS: Final = "payloads"
LOCK: Final = ".lock"


@dataclass(frozen=True, kw_only=True)
class Library:
    """What a library held when it was opened; open it again to see what has changed since.

    `base.name` is a Hub id or a path that can be opened from here. `variants`: entries by name, sorted.
    """

    path: Path
    base: LibraryBase
    variants: Mapping[str, Entry]

    def payload(self, name: str) -> Path:
        """The directory of a variant: a delta, or a PEFT adapter. Raises LibraryError for a name it has not."""
        return self.path / PAYLOADS / self.entry(name).payload

    def entry(self, name: str) -> Entry:
        """What the library says of a variant. Raises LibraryError for a name it has not."""
        if name not in self.variants:
            held = ", ".join(list(self.variants)[:8]) or "none"
            raise LibraryError(
                str(self.path), f"has no variant {name!r}", expected=f"one of its {len(self.variants)}: {held}",
                fix="deltagram library list shows them",
            )  # fmt: skip
        return self.variants[name]


def open_library(path: Path | str) -> Library:
    """Open a library as it is now: no variant is half there, whatever writers do meanwhile.

    Raises LibraryError, naming the file, for a folder that is no library and for a damaged entry.
    """
    path = Path(path)
    base = open_base(path)
    entries, faults = read_entries(path)
    for fault in faults.values():
        raise fault
    return Library(path=path, base=base, variants=entries)


def open_base(path: Path) -> LibraryBase:
    """The base of a library, named so that it can be opened from here. Raises LibraryError."""
    file = path / FILE
    if file.is_symlink() or not file.is_file():
        what = f"holds no {FILE}" if path.is_dir() else "is a file" if path.exists() else "there is no such directory"
        raise LibraryError(
            str(path), what, expected="a library", fix="make one: deltagram library init BASE DIR"
        )  # fmt: skip
    for name in (VARIANTS, PAYLOADS):
        if (path / name).is_symlink() or not (path / name).is_dir():
            raise LibraryError(str(path / name), "is no directory", expected="one, as every library has")
    return read_base(file.read_bytes(), where=str(file)).seen_from(path)


def read_entries(path: Path) -> tuple[dict[str, Entry], dict[str, LibraryError]]:
    """The entries of a library by name, and what is wrong with those that cannot be read."""
    entries: dict[str, Entry] = {}
    faults: dict[str, LibraryError] = {}
    for file in sorted((path / VARIANTS).glob("*.json"), key=lambda file: file.stem):
        if file.name.startswith("."):
            continue  # on its way in, or left by a run that was killed
        try:
            entries[file.stem] = _entry(file)
        except FileNotFoundError:
            continue  # removed since the folder was listed
        except LibraryError as fault:
            faults[file.stem] = fault
    return entries, faults


def _entry(file: Path) -> Entry:
    if file.is_symlink():
        raise LibraryError(str(file), "is a link", expected="a file", fix="remove it")
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise LibraryError(str(file), f"cannot be read ({fault.strerror})", expected="an entry") from None
    return read_entry(data, name=file.stem, where=str(file))
