"""How a library lies in a repository of the Hub, and what of it is read: entries first, payloads when wanted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from deltagram.errors import LibraryError, SettingError
from deltagram.store.companions import ALLOWED
from deltagram.store.library import FILE
from deltagram.store.libraryentry import ENTRY, Entry, LibraryBase, check_name, read_base, read_entry

CARD: Final = "README.md"
PAYLOAD: Final = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json", *ALLOWED)


class Remote(Protocol):
    """A repository of the Hub, as a door gives it. Every method raises LibraryError where the Hub does not do it."""

    @property
    def name(self) -> str:
        """Its id, `owner/name`."""

    def create(self, *, private: bool) -> None:
        """Make it, if there is none."""

    def files(self) -> Sequence[str]:
        """The paths of all its files, at the revision that `fetch` takes too."""

    def fetch(self, folder: Path, paths: Sequence[str]) -> None:
        """Download these files into a directory, as plain files."""

    def upload(self, folder: Path, *, replaced: Sequence[str], message: str) -> str:
        """Upload a directory; what else matches the globs `replaced` goes. Returns where to see it."""


def published(remote: Remote, scratch: Path) -> tuple[LibraryBase | None, dict[str, Entry]]:
    """The base and the entries of a repository; no base where it holds no library.

    Raises LibraryError for a repository that is not as `push` makes it.
    """
    files = remote.files()
    if FILE not in files:
        return None, {}
    entries = sorted(file for file in files if file.count("/") == 1 and file.endswith(f"/{ENTRY}"))
    names = [_named(remote, file.split("/")[0]) for file in entries]
    twice = sorted({name.lower() for name in names if [other.lower() for other in names].count(name.lower()) > 1})
    if twice:
        raise LibraryError(remote.name, f"holds two variants named {twice[0]!r}, but for their case")
    remote.fetch(scratch, [FILE, *entries])
    base = read_base(read_plain(scratch, FILE, remote), where=f"{remote.name}/{FILE}")
    return base, {
        name: read_entry(read_plain(scratch, file, remote), name=name, where=f"{remote.name}/{file}")
        for name, file in zip(names, entries, strict=True)
    }


def _named(remote: Remote, name: str) -> str:
    try:
        return check_name(name, where=remote.name)
    except SettingError as fault:
        raise LibraryError(remote.name, f"holds a variant whose name {fault.found}", expected=fault.expected) from None


def read_plain(folder: Path, file: str, remote: Remote) -> bytes:
    """A file that was fetched. Raises LibraryError for one that is missing or a link."""
    path = folder / file
    if path.is_symlink() or not path.is_file():
        raise LibraryError(f"{remote.name}/{file}", "did not come as a plain file", expected="one")
    return path.read_bytes()


def chosen(entries: Mapping[str, Entry], names: Sequence[str], *, where: str) -> list[str]:
    """These names, or all. Raises LibraryError for one that is not among the entries."""
    for name in names:
        if name not in entries:
            held = ", ".join(list(entries)[:8]) or "none"
            raise LibraryError(where, f"has no variant {name!r}", expected=f"one of its {len(entries)}: {held}")
    return list(dict.fromkeys(names)) or list(entries)
