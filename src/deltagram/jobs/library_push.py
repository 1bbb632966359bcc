"""Variants of a library -> a repository of the Hub."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from deltagram.jobs.libraryadding import same_base
from deltagram.jobs.librarycard import library_card, public_base
from deltagram.jobs.libraryremote import CARD, Remote, chosen, published
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.library import FILE, Library, open_library
from deltagram.store.libraryentry import ENTRY
from deltagram.store.librarypayload import check_files


def library_push(
    library: Path | str,
    remote: Remote,
    names: Sequence[str] = (),
    *,
    private: bool = False,
    progress: Progress = SILENT,
) -> Record:
    """Publish variants (all unless named): a folder each, `library.json`, and a model card with a table of them.

    Each payload is verified first. Variants that the repository holds already stay, and stand in the card; one of the
    same name is replaced.
    Raises LibraryError, BaseError for a repository of another base's variants; then nothing is published.
    """
    meter = Meter.start()
    opened = open_library(library)
    wanted = chosen(opened.variants, names, where=str(library))
    for done, name in enumerate(wanted, 1):
        check_files(opened.payload(name), opened.entry(name).files, name=name)
        progress.advance("verifying", done, len(wanted))
    remote.create(private=private)
    with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch:
        there, entries = published(remote, Path(scratch))
    if there is not None:
        same_base(opened.base, there, where=remote.name)
    every = {**entries, **{name: opened.entry(name) for name in wanted}}
    with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch:
        folder = Path(scratch)
        for name in wanted:
            _lay(opened, name, folder / name)
        (folder / FILE).write_text(public_base(opened.base).text(), "utf-8")
        (folder / CARD).write_text(library_card(opened.base, every, repo=remote.name), "utf-8")
        progress.say(f"uploading {len(wanted)} variants to {remote.name}")
        message = f"Variants: {', '.join(wanted)}" if len(wanted) < 6 else f"{len(wanted)} variants"
        url = remote.upload(folder, replaced=[f"{name}/*" for name in wanted], message=message)
    numbers = {
        **meter.numbers(), "variants": wanted, "kept": sorted(set(entries) - set(wanted)), "url": url,
        "bytes": sum(opened.entry(name).bytes for name in wanted),
    }  # fmt: skip
    return Record(job="library_push", settings={"library": str(library), "repo": remote.name}, numbers=numbers)


def _lay(library: Library, name: str, folder: Path) -> None:
    """A variant as it lies in a repository; its files are links, which the Hub's client follows."""
    folder.mkdir()
    entry, place = library.entry(name), library.payload(name).resolve()
    for file in entry.files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).symlink_to(place / file)
    (folder / ENTRY).write_text(entry.text(), "utf-8")
