"""A repository of the Hub -> variants of a library."""

import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from deltagram.delta import backend
from deltagram.errors import LibraryError, SettingError
from deltagram.jobs.libraryadding import BaseModel, Locate, Variant, examine, put, same_base, waiting
from deltagram.jobs.libraryremote import PAYLOAD, Remote, chosen, published
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.adapter_config import CONFIG
from deltagram.store.directory import INDEX, NAME
from deltagram.store.library import open_base
from deltagram.store.libraryentry import Entry, LibraryBase, check_name
from deltagram.store.librarywriter import writing
from deltagram.store.parts import may_travel


def library_pull(
    remote: Remote,
    library: Path | str,
    names: Sequence[str] = (),
    *,
    name: str | None = None,
    force: bool = False,
    locate: Locate = Path,
    progress: Progress = SILENT,
) -> Record:
    """Add variants (all unless named) from a repository that `library_push` made.

    Of a repository that holds one delta or PEFT adapter at its root, that, under `name` (else the repository's).

    Everything is checked as `library_add` does before any of it is added; nothing is written outside of the library.
    Raises what `library_add` does, and BaseError for variants of another base.
    """
    meter = Meter.start()
    library = Path(library)
    said = open_base(library)
    backend.prepare(progress=progress)
    with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch:
        found = _fetched(remote, said, names, name, Path(scratch), progress)
        base = BaseModel(said, locate, progress)
        variants = {entry: examine(folder, base, said, progress=progress) for entry, (folder, _) in found.items()}
        entries = {entry: _entry(entry, variants[entry], given, remote) for entry, (_, given) in found.items()}
        shared: list[str] = []
        with writing(library, waiting=waiting(library, progress)) as writer:
            for entry in entries:
                writer.check_free(entry, force=force)
            for entry, made in entries.items():
                if put(writer, variants[entry], made, force=force, progress=progress):
                    shared.append(entry)
    numbers = {
        **meter.numbers(), "variants": list(entries), "bytes": sum(made.bytes for made in entries.values()),
        "shared": shared,
    }  # fmt: skip
    return Record(job="library_pull", settings={"repo": remote.name, "library": str(library)}, numbers=numbers)


def _fetched(
    remote: Remote, said: LibraryBase, names: Sequence[str], name: str | None, scratch: Path, progress: Progress
) -> dict[str, tuple[Path, Entry | None]]:
    """The downloaded folders by name of the variant, with what the repository says of each."""
    theirs, entries = published(remote, scratch)
    if theirs is None:
        if names:
            fix = "leave the names out, and give --name to name the one variant it holds"
            raise LibraryError(remote.name, "holds no library to choose from", fix=fix)
        alone = check_name(remote.name.rpartition("/")[2] if name is None else name)
        remote.fetch(scratch, _lone(remote))
        return {alone: (scratch, None)}
    if name is not None:
        raise SettingError("--name", f"{remote.name} holds a library, whose variants have names", fix="leave it out")
    same_base(said, theirs, where=remote.name)
    wanted = chosen(entries, names, where=remote.name)
    for done, entry in enumerate(wanted, 1):
        remote.fetch(scratch, [f"{entry}/{file}" for file in entries[entry].files if _checked(remote, entry, file)])
        progress.advance("downloading", done, len(wanted))
    return {entry: (scratch / entry, entries[entry]) for entry in wanted}


def _lone(remote: Remote) -> list[str]:
    """The files of the delta or adapter at a repository's root."""
    files = remote.files()
    if not {NAME, INDEX, CONFIG} & set(files):
        raise LibraryError(
            remote.name, "holds no library, delta or adapter", expected=f"library.json, {NAME} or {CONFIG}",
            fix="prune a fine-tuned checkpoint to a delta: deltagram prune BASE TUNED DELTA",
        )  # fmt: skip
    return [file for file in files if _plain(file)]


def _checked(remote: Remote, entry: str, file: str) -> bool:
    """Raise LibraryError for a file that no variant carries."""
    if not _plain(file):
        raise LibraryError(remote.name, f"names the file {file!r} of {entry}, which no variant carries")
    return True


def _plain(file: str) -> bool:
    """Whether a path stays in its folder and is of a kind that travels."""
    known = any(fnmatchcase(file, pattern) for pattern in PAYLOAD)
    inside = not PurePosixPath(file).is_absolute() and ".." not in PurePosixPath(file).parts and "\\" not in file
    tensors = file.endswith((".safetensors", ".safetensors.index.json")) and "/" not in file and file[0] != "."
    return known and inside and file.isprintable() and (tensors or may_travel(file))


def _entry(name: str, variant: Variant, given: Entry | None, remote: Remote) -> Entry:
    """What the library will say: measured here, but for the note, quality and date that the repository has."""
    if given is None:
        return variant.entry(name, note=f"from {remote.name}")
    if variant.payload != given.payload:
        raise LibraryError(
            f"{remote.name}/{name}", f"makes the payload {variant.payload[:16]}...",
            expected=f"{given.payload[:16]}..., as its entry says", fix="ask who published it to push it again",
        )  # fmt: skip
    return variant.entry(name, note=given.note, quality=given.quality, added=given.added)
