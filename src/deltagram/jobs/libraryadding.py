"""A variant on its way into a library: everything about it is checked before anything is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deltagram.errors import BaseError, CheckpointError
from deltagram.jobs.librarysummary import adapter_summary, delta_summary
from deltagram.jobs.verify import verify
from deltagram.progress import Progress
from deltagram.store.adapter import Adapted, open_tuned
from deltagram.store.adapter_config import read_config
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.deltafile import open_delta
from deltagram.store.libraryentry import Entry, LibraryBase, PayloadFile, Told, folder_digest
from deltagram.store.librarypayload import adapter_names, delta_names, identify, kind_of
from deltagram.store.librarywriter import Writer

Locate = Callable[[str], Path]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A directory that may become a variant: sound, and of the library's base."""

    folder: Path
    kind: str
    files: Mapping[str, PayloadFile]
    told: Told

    @property
    def payload(self) -> str:
        """Identity of its files."""
        return folder_digest(self.files)

    @property
    def nbytes(self) -> int:
        """Bytes of its files."""
        return sum(file.bytes for file in self.files.values())

    def entry(self, name: str, *, note: str = "", quality: Mapping[str, float] | None = None, added: str = "") -> Entry:
        """What the library will say of it."""
        return Entry.model_validate({
            **self.told.model_dump(), "name": name, "kind": self.kind, "payload": self.payload, "bytes": self.nbytes,
            "files": self.files, "added": added or datetime.now(UTC).isoformat(timespec="seconds"), "note": note,
            "quality": dict(quality or {}),
        })  # fmt: skip


class BaseModel:
    """The base of a library, opened and verified once, when an adapter asks for it."""

    def __init__(self, said: LibraryBase, locate: Locate, progress: Progress) -> None:
        self._said, self._locate, self._progress = said, locate, progress
        self._opened: Checkpoint | None = None

    def open(self) -> Checkpoint:
        """The checkpoint. Raises CheckpointError where it is not to be had, BaseError where it is another one now."""
        if self._opened is None:
            self._progress.say("verifying the base, which adapters are checked against")
            opened = open_checkpoint(self._locate(self._said.name))
            check_base(opened, self._said)
            self._opened = opened
        return self._opened


def check_base(found: Checkpoint, said: LibraryBase) -> None:
    """Raise BaseError unless a checkpoint is the base of a library."""
    digest = found.whole_digest()
    if digest != said.digest:
        raise BaseError(
            str(found.path), f"has digest {digest[:16]}...", expected=f"{said.digest[:16]}..., the library's base",
            fix=f"use the base that the library was made with: {said.name}",
        )  # fmt: skip


def examine(folder: Path, base: BaseModel, said: LibraryBase, *, progress: Progress) -> Variant:
    """Check a delta or an adapter whole: its digests, its values, its files, and that it is of this base.

    A delta is held against the digest of the base, which needs no base; an adapter's shapes against the base itself.
    Raises FormatError, CheckpointError, PlanError, BaseError or LibraryError.
    """
    kind = kind_of(folder)
    if kind == "delta":
        delta = open_delta(folder)
        theirs = delta.manifest.base
        if theirs.digest != said.digest:
            raise BaseError(
                str(folder), f"is a delta of {theirs.name}, digest {theirs.digest[:16]}...",
                expected=f"one of {said.name}, digest {said.digest[:16]}...",
                fix="add it to a library of its own base, or prune the fine-tuned model against this one",
            )  # fmt: skip
        files = identify(folder, delta_names(delta))
        verify(folder, progress=progress)
        return Variant(folder=folder, kind=kind, files=files, told=delta_summary(delta))
    config = read_config(folder)
    files = identify(folder, adapter_names(folder))
    tuned = open_tuned(folder, base.open())
    if not isinstance(tuned, Adapted):
        fix = "prune it to a delta, or take model.safetensors away from the adapter"
        raise CheckpointError(str(folder), "is a checkpoint", expected="a delta or a PEFT adapter", fix=fix)
    return Variant(folder=folder, kind=kind, files=files, told=adapter_summary(tuned, config))


def put(writer: Writer, variant: Variant, entry: Entry, *, force: bool, progress: Progress) -> bool:
    """Copy a variant into a library; returns whether its payload was there already."""
    done = 0

    def copied(count: int) -> None:
        nonlocal done
        done += count
        progress.advance("copying", done, variant.nbytes)

    return writer.put(entry, variant.folder, force=force, copied=copied)


def same_base(ours: LibraryBase, theirs: LibraryBase, *, where: str) -> None:
    """Raise BaseError unless both are one base."""
    if ours.digest != theirs.digest:
        raise BaseError(
            where, f"holds variants of {theirs.name}, digest {theirs.digest[:16]}...",
            expected=f"those of {ours.name}, digest {ours.digest[:16]}...",
            fix="make a library of that base: deltagram library init",
        )  # fmt: skip


def waiting(library: Path, progress: Progress) -> Callable[[], None]:
    """What is said while another writer has the library."""
    return lambda: progress.say(f"waiting for another writer of {library}")
