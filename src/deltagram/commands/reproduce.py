"""`reproduce`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltagram import show
from deltagram.commands.options import Json, emit

if TYPE_CHECKING:
    from deltagram.records import Record


def reproduce(
    paper: Annotated[
        str,
        typer.Argument(
            metavar="PAPER",
            help="darex, seli, ce-parameterizations, orthogonal-frames, prototypes or next-token.",
        ),
    ],
    folder: Annotated[Path, typer.Option(help="Where models, measurements and records.jsonl go; reused.")] = Path(
        "reproduction"
    ),
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of released data: sst2/*.tsv; Fashion-MNIST; kjv.txt (default: packages)."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Three seeds, more of everything: hours, not minutes.")] = False,
    only: Annotated[str, typer.Option(help="Some claims, such as D1,D5.")] = "",
    json: Json = False,
) -> None:
    """Check a paper's claims on this machine: train, measure, judge."""
    from deltagram import papers  # noqa: PLC0415

    names = [name.strip() for name in only.split(",") if name.strip()]
    with show.progress(quiet=json) as bar:
        record = papers.reproduce(paper, folder=folder, data=data, full=full, only=names, progress=bar)
    emit(record, show_reproduce, json=json)


def show_reproduce(record: "Record") -> None:
    """The claims: where they are made, what was got, the verdict."""
    rows = show.table("claim", "source", "got", "verdict")
    for column in rows.columns[1:]:
        column.justify = "left"
    for row in record.numbers["rows"]:
        got = ", ".join(f"{name} {value:.3g}" for name, value in row["got"].items())
        verdict = f"{row['verdict']}, because {row['because']}" if row["because"] else row["verdict"]
        rows.add_row(f"{row['claim']} {row['statement']}", row["source"], got, verdict)
    show.out().print(rows)
