"""`demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltagram import show
from deltagram.commands.options import Json, emit

if TYPE_CHECKING:
    from deltagram.records import Record


def demo(
    folder: Annotated[Path, typer.Argument(help="Where models and deltas go; reused.")] = Path("demo"),
    json: Json = False,
) -> None:
    """The main job on a real base and real text: fine-tune two variants, prune, restore, compare (minutes)."""
    from deltagram import jobs  # noqa: PLC0415

    with show.progress(quiet=json) as bar:
        record = jobs.demo(folder, progress=bar)
    emit(record, show_demo, json=json)


def show_demo(record: "Record") -> None:
    """The table of the demo."""
    rows = show.table("variant", "stored", "bytes", "ratio", "accuracy", "prune s", "restore s")
    for row in record.numbers["rows"]:
        rows.add_row(
            row["variant"], row["stored"], show.size(row["bytes"]) if row["bytes"] is not None else "",
            f"{row['ratio']:.1f}x" if row["ratio"] is not None else "",
            f"{row['accuracy']:.3f}" if row["accuracy"] is not None else "",
            f"{row['prune_seconds']:.2f}" if row["prune_seconds"] is not None else "",
            f"{row['restore_seconds']:.2f}" if row["restore_seconds"] is not None else "",
        )  # fmt: skip
    show.out().print(rows)
