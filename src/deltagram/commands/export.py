"""`export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltagram import show
from deltagram.commands.options import BaseModel, DeltaFolder, Force, Json, emit

if TYPE_CHECKING:
    from deltagram.records import Record


def export(
    base: BaseModel,
    delta: DeltaFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Adapter or checkpoint directory to write.")],
    to: Annotated[str, typer.Option("--to", help="lora, peft-sparse or dense.")],
    rank: Annotated[int | None, typer.Option(help="lora: rank of each weight's factors (32 unless given).")] = None,
    error: Annotated[
        float | None, typer.Option(help="lora: instead, largest relative Frobenius error of each weight, in (0, 1).")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Glob of changed tensors that may be left out (repeatable).")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write DELTA as an adapter that plain PEFT loads on BASE, or as a checkpoint."""
    from deltagram import hub, jobs  # noqa: PLC0415

    with show.progress(quiet=json) as bar:
        record = jobs.export(
            hub.locate(base), delta, out, to=to, rank=rank, error=error, drop=drop or (), force=force, progress=bar
        )
    emit(record, show_export, json=json)


def show_export(record: "Record") -> None:
    """Size, what went where, and the largest error."""
    n, page = record.numbers, show.out()
    where = show.plain(record.settings["out"])
    if record.settings["to"] == "dense":
        page.print(f"{where}: {n['tensors']} tensors, {show.size(n['restored_bytes'])}, in {n['seconds']:.2f} s")
        return
    page.print(f"{where}: {show.size(n['adapter_bytes'])}, in {n['seconds']:.2f} s; load it on {n['model']} with PEFT")
    page.print(", ".join(f"{count} {place}" for place, count in n["went"].items()))
    if n["ranks"]:
        ranks = f"{n['ranks'][0]}" if len(n["ranks"]) == 1 else f"{n['ranks'][0]} to {n['ranks'][-1]}"
        page.print(f"rank {ranks}; largest relative error of a weight's difference {n['largest_error']:.3g}")
    if n["dropped"]:
        more = f" and {len(n['dropped']) - 6} more" if len(n["dropped"]) > 6 else ""
        page.print(f"left out as told: {show.plain(', '.join(n['dropped'][:6]))}{more}")
