"""`library`: a folder of variants of one base, and publishing it."""

from pathlib import Path
from typing import Annotated

import typer

from deltagram import show
from deltagram.commands.libraryshow import (
    show_add,
    show_init,
    show_list,
    show_pull,
    show_push,
    show_remove,
    show_verify,
)
from deltagram.commands.options import BaseModel, Force, Json, emit
from deltagram.errors import LibraryError, SettingError

library = typer.Typer(
    name="library", no_args_is_help=True, help="Many variants of one base in a folder: make it, change it, publish it."
)

Folder = Annotated[Path, typer.Argument(metavar="LIB", help="Library directory.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Variants; all unless named.")]
Repo = Annotated[str, typer.Argument(metavar="REPO_ID", help="Repository of the Hub: owner/name.")]
Revision = Annotated[str | None, typer.Option(help="Branch of the repository (when pulling, also a tag or commit).")]


@library.command()
def init(
    base: BaseModel,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to make.")],
    json: Json = False,
) -> None:
    """Make an empty library of BASE, which is hashed and referred to, not copied."""
    from deltagram import hub, jobs  # noqa: PLC0415 - keeps --help fast

    with show.progress(quiet=json) as bar:
        found = hub.locate(base)
        record = jobs.library_init(found, out, hub_id=base if found != Path(base) else None, progress=bar)
    emit(record, show_init, json=json)


@library.command()
def add(
    folder: Folder,
    variant: Annotated[Path, typer.Argument(metavar="VARIANT", help="Directory of a delta or PEFT adapter.")],
    name: Annotated[str | None, typer.Option(help="What to call it; the directory's name unless given.")] = None,
    quality: Annotated[
        list[str] | None, typer.Option(help="A measured number, such as accuracy=0.91 (repeatable).")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="File with the --json record of train, select or rescale that measured it.")
    ] = None,
    note: Annotated[str, typer.Option(help="Free text.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a variant of that name.")] = False,
    json: Json = False,
) -> None:
    """Check a delta or adapter whole, and copy it into LIB."""
    from deltagram import hub, jobs  # noqa: PLC0415

    with show.progress(quiet=json) as bar:
        made = jobs.library_add(
            folder, variant, name=name, note=note, quality=_numbers(quality), record=record, force=force,
            locate=hub.locate, progress=bar,
        )  # fmt: skip
    emit(made, show_add, json=json)


@library.command("list")
def list_(folder: Folder, json: Json = False) -> None:
    """Name, size, rate, method and quality of each variant, and the totals beside full checkpoints."""
    from deltagram import jobs  # noqa: PLC0415

    emit(jobs.library_list(folder), show_list, json=json)


@library.command()
def remove(
    folder: Folder, name: Annotated[str, typer.Argument(metavar="NAME", help="Variant.")], json: Json = False
) -> None:
    """Take a variant away, and its files where no other variant has the same."""
    from deltagram import jobs  # noqa: PLC0415

    with show.progress(quiet=json) as bar:
        record = jobs.library_remove(folder, name, progress=bar)
    emit(record, show_remove, json=json)


@library.command()
def verify(
    folder: Folder,
    base: Annotated[str | None, typer.Option(help="Also check that this is the base, and that all restores.")] = None,
    json: Json = False,
) -> None:
    """Check every byte; exit 1, naming the first fault, after all variants were checked."""
    from deltagram import hub, jobs  # noqa: PLC0415

    with show.progress(quiet=json) as bar:
        record = jobs.library_verify(folder, base=None if base is None else hub.locate(base), progress=bar)
    emit(record, show_verify, json=json)
    if record.numbers["faults"]:
        raise LibraryError("", record.numbers["faults"][0])


@library.command()
def push(
    folder: Folder,
    repo: Repo,
    names: Names = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Revision = None,
    json: Json = False,
) -> None:
    """Publish variants on the Hub; you must be logged in there."""
    from deltagram import hub, jobs  # noqa: PLC0415

    with show.progress(quiet=json) as bar:
        remote = hub.Repository(repo, revision=revision)
        record = jobs.library_push(folder, remote, names or (), private=private, progress=bar)
    emit(record, show_push, json=json)


@library.command()
def pull(
    repo: Repo,
    folder: Folder,
    names: Names = None,
    name: Annotated[str | None, typer.Option(help="What to call the one variant of a repository.")] = None,
    revision: Revision = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Add variants that were published: of a library, or one delta or PEFT adapter."""
    from deltagram import hub, jobs  # noqa: PLC0415

    with show.progress(quiet=json) as bar:
        record = jobs.library_pull(
            hub.Repository(repo, revision=revision), folder, names or (), name=name, force=force, locate=hub.locate,
            progress=bar,
        )  # fmt: skip
    emit(record, show_pull, json=json)


def _numbers(texts: list[str] | None) -> dict[str, float]:
    """`METRIC=NUMBER` texts. Raises SettingError for one that is not."""
    found: dict[str, float] = {}
    for text in texts or ():
        metric, equals, number = text.partition("=")
        try:
            found[metric.strip()] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise SettingError("--quality", f"{text!r} is no measured number", expected="such as accuracy=0.91")
    return found
