"""A variant out of a library."""

from pathlib import Path

from deltagram.jobs.libraryadding import waiting
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.library import PAYLOADS
from deltagram.store.librarywriter import writing


def library_remove(library: Path | str, name: str, *, progress: Progress = SILENT) -> Record:
    """Take the variant `name` away, even one whose entry is damaged, and its payload where no other variant has it.

    Raises LibraryError for a name that the library has not.
    """
    meter = Meter.start()
    library = Path(library)
    with writing(library, waiting=waiting(library, progress)) as writer:
        before = _stored(library)
        writer.drop(name)
        freed = before - _stored(library)
    numbers = {**meter.numbers(), "freed_bytes": freed}
    return Record(job="library_remove", settings={"library": str(library), "name": name}, numbers=numbers)


def _stored(library: Path) -> int:
    """Bytes of all payloads."""
    return sum(path.lstat().st_size for path in (library / PAYLOADS).rglob("*") if path.is_file())
