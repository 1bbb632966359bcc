"""`prune`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Threads,
    TunedModel,
    emit,
    parse_bytes,
    renames,
)
from deltagram.commands.searches import DIVIDE_BY, show_search

if TYPE_CHECKING:
    from deltagram.records import Record


def prune(
    base: BaseModel,
    tuned: TunedModel,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Delta directory to write.")],
    keep: Annotated[float | None, typer.Option(help="Share of entries to keep, in (0, 1]; 0.01 unless given.")] = None,
    budget: Annotated[str | None, typer.Option(help="Instead of --keep: bytes the delta may take (20MB).")] = None,
    method: Annotated[
        str,
        typer.Option(
            help="random, bernoulli, magnitude, magnitude-rows, wanda, wanda-rows, columns, columns-magnitude, "
            "columns-wanda or exact (lossless). Those with wanda need --calibration."
        ),
    ] = "random",
    columns: Annotated[
        float | None, typer.Option(help="Share of input columns that columns... keep entries in; 5 x --keep.")
    ] = None,
    adapter: Annotated[
        str, typer.Option(help="What of a PEFT adapter is pruned: product (what it adds), or factors (A and B).")
    ] = "product",
    calibration: Calibration = None,
    labels: Labels = None,
    metric: Metric = None,
    texts: Texts = None,
    max_length: MaxLength = 128,
    device: Device = "cpu",
    divide_by: Annotated[str, typer.Option(help=DIVIDE_BY)] = "dare",
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit kept values to the fine-tuned model's outputs (--calibration).")
    ] = False,
    values: Annotated[
        str | None,
        typer.Option(help="f32, bf16, f16, 8bit to 2bit, sign, codebook8, 4, 3, 2; bf16, or 4bit with --budget."),
    ] = None,
    pack: Annotated[bool, typer.Option("--pack/--no-pack", help="Compress the values losslessly.")] = True,
    compact: Annotated[
        bool, typer.Option("--compact", help="Compress the manifest too: for very small deltas.")
    ] = False,
    plan: Annotated[Path | None, typer.Option(help="YAML file of rules, a form, rate or values a tensor.")] = None,
    whole: Annotated[list[str] | None, typer.Option(help="Glob of tensors to store unpruned (repeatable).")] = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="OLD=NEW: what base names start with, and tuned ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the masks.")] = 0,
    with_code: Annotated[bool, typer.Option("--with-code", help="Carry .py files of the model along.")] = False,
    force: Force = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Store what fine-tuning added to BASE as a small delta directory."""
    from deltagram import hub, jobs  # noqa: PLC0415 - keeps --help fast

    pairs = renames(rename)
    size = None if budget is None else parse_bytes(budget)
    with show.progress(quiet=json) as bar:
        record = jobs.prune(
            hub.locate(base), hub.locate(tuned), out, keep=keep, budget=size, method=method, columns=columns,
            calibration=calibration, labels=labels, metric=metric, texts=texts, max_length=max_length, device=device,
            divide_by=divide_by, refit=refit, values=values, pack=pack, compact=compact, plan=plan,
            whole=whole or (), rename=pairs,
            adapter=adapter, seed=seed, with_code=with_code, force=force, threads=threads, progress=bar,
        )  # fmt: skip
    emit(record, show_prune, json=json)


def show_prune(record: "Record") -> None:
    """One line of result, one of plan."""
    n = record.numbers
    if "search" in n:
        show_search(n["search"])
    forms = Counter(
        row["form"] + (f" in {row['values']}" if "values" in row else "") for row in record.tensors.values()
    )
    page = show.out()
    tuned = "adapter" if record.settings["adapter"] else "fine-tuned checkpoint"
    page.print(
        f"{show.plain(record.settings['out'])}: {show.size(n['delta_bytes'])}, {n['ratio']}x smaller than the "
        f"{tuned} ({show.size(n['tuned_bytes'])}), in {n['seconds']:.2f} s"
    )
    page.print(f"plan: {', '.join(f'{count} {form}' for form, count in sorted(forms.items()))}; {n['matching']}")
    for why, names in _instead(record).items():
        page.print(f"{why}: {show.plain(_few(names))}")
    for what, names in (("dropped (not in the fine-tuned model)", n["dropped"]), ("left behind", n["left_behind"])):
        if names:
            page.print(f"{what}: {show.plain(_few(names))}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _instead(record: "Record") -> dict[str, list[str]]:
    """Why tensors were not pruned the way that was asked for, and which."""
    found: dict[str, list[str]] = {}
    for name, row in record.tensors.items():
        _, changed, why = row.get("reason", "").partition("; ")
        if changed:
            found.setdefault(why, []).append(name)
    return found
