"""`select`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltagram import show
from deltagram.commands.options import (
    BaseModel,
    Calibration,
    Device,
    Force,
    Json,
    Labels,
    MaxLength,
    Metric,
    Texts,
    TunedModel,
    emit,
    parse_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deltagram.records import Record


def select(
    base: BaseModel,
    tuned: TunedModel,
    calibration: Calibration = None,
    labels: Labels = None,
    budget: Annotated[str | None, typer.Option(help="Bytes the delta may take, all files included (450kB).")] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="Instead of --budget: the least bytes whose score loses at most this.")
    ] = None,
    may_retrain: Annotated[
        bool, typer.Option("--may-retrain", help="The model may be fine-tuned again, so that it prunes well.")
    ] = False,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Then fit the best candidate's values to the texts, if that measures better."),
    ] = False,
    metric: Metric = None,
    texts: Texts = None,
    max_length: MaxLength = 128,
    out: Annotated[Path | None, typer.Option(help="Write the recommended delta there.")] = None,
    plan_out: Annotated[Path | None, typer.Option(help="Write the plan of the recommended delta there.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the masks.")] = 0,
    device: Device = "cpu",
    force: Force = False,
    json: Json = False,
) -> None:
    """Recommend what to store: the paper's decision, candidates measured within a budget, and a guarantee."""
    from deltagram import hub, jobs  # noqa: PLC0415 - keeps --help fast

    with show.progress(quiet=json) as bar:
        record = jobs.select(
            hub.locate(base), hub.locate(tuned), calibration=calibration, labels=labels, metric=metric,
            budget=None if budget is None else parse_bytes(budget), max_loss=max_loss, may_retrain=may_retrain,
            refit=refit, texts=texts, max_length=max_length, out=out, plan_out=plan_out, force=force, seed=seed,
            device=device, progress=bar,
        )  # fmt: skip
    emit(record, show_select, json=json)


def show_select(record: "Record") -> None:
    """The decision, the table, and what is recommended."""
    n = record.numbers
    page = show.out()
    page.print("What DAREx's decision says (Fig. 4 of the paper):")
    for step in n["decision"]["steps"]:
        page.print(f"  {step['question']} {step['answer']}: {show.plain(step['because'])}", soft_wrap=True)
    page.print(f"  -> {n['decision']['leaf']}")
    for line in n["decision"]["commands"]:
        page.print(f"     {show.plain(line)}", soft_wrap=True)
    page.print()
    page.print(f"What was measured on {n['texts']} texts (score: {n['score']}; the less the better):")
    page.print(_table(n["table"], n["recommended"]))
    if n["recommended"]["noise"]:
        page.print(
            f"Scores within {n['recommended']['noise']:.4f} (one standard error over the labelled texts) of the least "
            "count as alike: of those the least change is recommended."
        )
    page.print()
    _recommend(n["recommended"], record.settings)


def _table(rows: "list[Mapping[str, Any]]", chosen: "Mapping[str, Any]") -> Any:
    labelled = any(row["metric"] is not None for row in rows)
    page = show.table(
        "mask", "values", "keep", "vectors", "divide by", "bytes", "ratio", "score",
        *(("metric", "change") if labelled else ()), "agrees", "",
    )  # fmt: skip
    for row in rows:
        page.add_row(
            row["mask"] + (", by layer" if row["by_layer"] else ""),
            row["values"], f"{row['keep']:.3%}", row["vectors"],
            row["rule"], show.size(row["bytes"]), f"{row['ratio']:.0f}x", f"{row['loss']:.4f}",
            *((f"{row['metric']:.4f}", f"{row['change']:.4f}") if labelled else ()),
            "" if row["agreement"] is None else f"{row['agreement']:.1%}",
            "<- recommended" if all(row[key] == chosen[key] for key in row) else "",
        )  # fmt: skip
    return page


def _recommend(chosen: "Mapping[str, Any]", settings: "Mapping[str, Any]") -> None:
    page = show.out()
    found = chosen["guarantee"]
    page.print(f"Recommended: {show.size(chosen['bytes'])}, {chosen['ratio']:.0f}x smaller than the model in bfloat16.")
    if chosen["refit"]:
        page.print(f"Refitted values: score {chosen['score_again']:.4f} instead of {chosen['before_refit']:.4f}.")
    if found:
        page.print(
            f"It agrees with the fine-tuned model on at least {found['at_least']:.1%} of texts like these, "
            f"{found['confidence']:.0%} confidence ({found['agreeing']} of {found['texts']} held-out texts; "
            f"counted: {found['counted']})."
        )
    else:
        page.print("No guarantee: the model decides nothing about a text as a whole.")
    page.print(f"  {show.plain(chosen['command'])}", soft_wrap=True)
    if settings["out"]:
        page.print(f"It is in {show.plain(settings['out'])}.")
    if not settings["plan_out"]:
        page.print("with plan.yaml (--plan-out writes it):")
        for line in chosen["plan"].splitlines():
            page.print(line, soft_wrap=True)
