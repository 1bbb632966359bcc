"""Every byte of a library, and of its base if given."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from deltagram.delta import backend
from deltagram.errors import BaseError, CheckpointError, DeltagramError
from deltagram.jobs.libraryadding import check_base
from deltagram.jobs.verify import verify
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.adapter import Adapted, open_tuned
from deltagram.store.adapter_config import WEIGHTS, read_config
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.deltafile import open_delta
from deltagram.store.library import Library, open_base, read_entries
from deltagram.store.librarypayload import check_files
from deltagram.store.librarystrangers import strangers
from deltagram.store.librarywriter import leftovers, locked


def library_verify(library: Path | str, *, base: Path | str | None = None, progress: Progress = SILENT) -> Record:
    """Check a whole library: each entry, each file of each payload, and that nothing else is there.

    With `base`, also that it is the library's, that every delta restores on it and every adapter fits it. Writers wait
    meanwhile. `numbers`: the state of each variant ("sound", or what is wrong), all `faults` in order, and how many
    `leftovers` of killed runs the next writer will clear, which are no fault.
    Raises LibraryError where `library` is none; everything else is told in the record.
    """
    meter = Meter.start()
    library = Path(library)
    said = open_base(library)
    backend.prepare(progress=progress)
    with locked(library, shared=True, waiting=lambda: progress.say(f"waiting for a writer of {library}")):
        entries, unread = read_entries(library)
        opened = Library(path=library, base=said, variants=entries)
        source = None if base is None else open_checkpoint(base)
        faults = [] if source is None else _faults(partial(check_base, source, said))
        found: dict[str, list[str]] = {name: [str(fault)] for name, fault in unread.items()}
        for done, name in enumerate(entries, 1):
            found[name] = _faults(partial(_check, opened, name, source if not faults else None))
            progress.advance("verifying", done, len(entries))
        faults += [fault for name in sorted(found) for fault in found[name]]
        faults += [str(fault) for fault in strangers(library, entries, all_read=not unread)]
        used = None if unread else {entry.payload for entry in entries.values()}
        left = sum(1 for _ in leftovers(library, used))
    numbers = {
        **meter.numbers(), "variants": {name: (found[name] or ["sound"])[0] for name in sorted(found)},
        "faults": faults, "leftovers": left, "base_checked": source is not None,
        "stored_bytes": sum({entry.payload: entry.bytes for entry in entries.values()}.values()),
    }  # fmt: skip
    settings = {"library": str(library), "base": str(base or "")}
    return Record(job="library_verify", settings=settings, numbers=numbers)


def _faults(check: Callable[[], None]) -> list[str]:
    try:
        check()
    except DeltagramError as fault:
        return [str(fault)]
    except OSError as fault:
        return [f"{fault.filename}: cannot be read ({fault.strerror})"]
    return []


def _check(library: Library, name: str, base: Checkpoint | None) -> None:
    """Raise the first fault of a variant."""
    entry, place = library.entry(name), library.payload(name)
    check_files(place, entry.files, name=name)
    if entry.kind == "delta":
        theirs = open_delta(place).manifest.base.digest
        if theirs != library.base.digest:
            raise BaseError(str(place), f"is of a base with digest {theirs[:16]}...", expected=library.base.digest)
        verify(place, base=None if base is None else base.path)
        return
    read_config(place)
    if base is None:
        open_checkpoint(place / WEIGHTS)
    elif not isinstance(open_tuned(place, base), Adapted):
        raise CheckpointError(str(place), "is a checkpoint", expected="a PEFT adapter")
