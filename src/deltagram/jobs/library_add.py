"""A delta or an adapter -> a variant of a library."""

from collections.abc import Mapping
from pathlib import Path

from deltagram.delta import backend
from deltagram.jobs.libraryadding import BaseModel, Locate, examine, put, waiting
from deltagram.jobs.libraryquality import quality as quality_of
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.library import open_base
from deltagram.store.libraryentry import check_name
from deltagram.store.librarywriter import writing


def library_add(
    library: Path | str,
    variant: Path | str,
    *,
    name: str | None = None,
    note: str = "",
    quality: Mapping[str, float] | None = None,
    record: Path | str | None = None,
    force: bool = False,
    locate: Locate = Path,
    progress: Progress = SILENT,
) -> Record:
    """Copy the delta or PEFT adapter in the directory `variant` into a library, under `name` (else the directory's).

    All of it is checked first, as `verify` does, and that it belongs to the library's base; an adapter against the base
    itself, which `locate` finds. `quality`: numbers by metric; `record`: a file whose last line is a record of `train`,
    `select` or `rescale` that holds one. `force` replaces a variant of that name; equal bytes keep note and quality.

    Raises LibraryError, SettingError, BaseError, FormatError, CheckpointError, PlanError or OutputError; the library
    is then as it was.
    """
    meter = Meter.start()
    library, variant = Path(library), Path(variant)
    named = check_name(variant.resolve().name if name is None else name)
    measured = quality_of(quality or {}, record)
    said = open_base(library)
    backend.prepare(progress=progress)
    found = examine(variant, BaseModel(said, locate, progress), said, progress=progress)
    with writing(library, waiting=waiting(library, progress)) as writer:
        before = writer.held(named)
        if before is not None and before.payload == found.payload:  # what was known of these bytes stays known
            note, measured = note or before.note, {**before.quality, **measured}
        entry = found.entry(named, note=note, quality=measured)
        shared = put(writer, found, entry, force=force, progress=progress)
    numbers = {
        **meter.numbers(), **entry.model_dump(mode="json", exclude={"files", "version"}), "base_bytes": said.bytes,
        "rate": round(said.bytes / max(1, entry.bytes), 2), "shared": shared,
    }  # fmt: skip
    settings = {"library": str(library), "variant": str(variant), "force": force, "record": str(record or "")}
    return Record(job="library_add", settings=settings, numbers=numbers)
