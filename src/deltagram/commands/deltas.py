"""`inspect`, `verify`, `restore`, `rescale`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltagram import show
from deltagram.commands.options import (
    BaseModel,
    Calibration,
    DeltaFolder,
    Device,
    Force,
    Json,
    Labels,
    MaxLength,
    Metric,
    Texts,
    Threads,
    emit,
)
from deltagram.commands.outputs import show_outputs
from deltagram.commands.searches import DIVIDE_BY, show_search

if TYPE_CHECKING:
    from rich.table import Table

    from deltagram.records import Record


def inspect(
    delta: DeltaFolder,
    tensors: Annotated[bool, typer.Option("--tensors", help="One line a tensor.")] = False,
    calibration: Calibration = None,
    base: Annotated[str | None, typer.Option(help="With --calibration: the base model.")] = None,
    tuned: Annotated[str | None, typer.Option(help="With --calibration: the fine-tuned model.")] = None,
    texts: Texts = None,
    max_length: MaxLength = 128,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Identity, plan, statistics, bytes against the entropy bound; with texts, each layer's output change and why."""
    from deltagram import hub, jobs  # noqa: PLC0415

    with show.progress(quiet=json) as bar:
        record = jobs.inspect(
            delta, calibration=calibration, base=base and hub.locate(base), tuned=tuned and hub.locate(tuned),
            texts=texts, max_length=max_length, device=device, progress=bar,
        )  # fmt: skip
    emit(record, lambda found: show_inspect(found, tensors=tensors), json=json)


def verify(
    delta: DeltaFolder,
    base: Annotated[str | None, typer.Option(help="Also check that this is its base and that all restores.")] = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Check every digest and every bound; exit 1 at the first fault, naming it."""
    from deltagram import hub, jobs  # noqa: PLC0415

    with show.progress(quiet=json) as bar:
        source = None if base is None else hub.locate(base)
        record = jobs.verify(delta, base=source, threads=threads, progress=bar)
    emit(record, show_verify, json=json)


def restore(
    base: BaseModel,
    delta: DeltaFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory, or .safetensors file, to write.")],
    force: Force = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Write the checkpoint that BASE and DELTA stand for; from_pretrained loads it."""
    from deltagram import hub, jobs  # noqa: PLC0415

    with show.progress(quiet=json) as bar:
        record = jobs.restore(hub.locate(base), delta, out, force=force, threads=threads, progress=bar)
    emit(record, show_restore, json=json)


def rescale(
    delta: DeltaFolder,
    divide_by: Annotated[str, typer.Option(help=DIVIDE_BY)],
    base: Annotated[str | None, typer.Option(help="The base model, for a rule that measures.")] = None,
    tuned: Annotated[str | None, typer.Option(help="The fine-tuned model; the rule labels needs none.")] = None,
    calibration: Calibration = None,
    labels: Labels = None,
    metric: Metric = None,
    texts: Texts = None,
    max_length: MaxLength = 128,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Change what kept values are divided by: replaces the small file of scales only."""
    from deltagram import hub, jobs  # noqa: PLC0415

    with show.progress(quiet=json) as bar:
        record = jobs.rescale(
            delta, divide_by=divide_by, base=base and hub.locate(base), tuned=tuned and hub.locate(tuned),
            calibration=calibration, labels=labels, metric=metric, texts=texts, max_length=max_length, device=device,
            progress=bar,
        )  # fmt: skip
    emit(record, show_rescale, json=json)


def show_restore(record: "Record") -> None:
    """One line of result."""
    n = record.numbers
    shards = f" in {n['shards']} shards" if n["shards"] > 1 else ""
    what = f"{n['tensors']} tensors, {show.size(n['restored_bytes'])}{shards}"
    show.out().print(f"{show.plain(record.settings['out'])}: {what}, in {n['seconds']:.2f} s")


def show_verify(record: "Record") -> None:
    """What was checked."""
    n = record.numbers
    base = (
        "; the base is the right one and every tensor restores" if n["base_checked"] else "; the base was not checked"
    )
    show.out().print(
        f"{show.plain(record.settings['delta'])}: sound, {n['tensors']} tensors, digest {n['digest'][:16]}...{base}"
    )


def show_rescale(record: "Record") -> None:
    """The curve of a search if there was one, and one line of result."""
    n = record.numbers
    if "search" in n:
        show_search(n["search"])
    took = f"{1000 * n['seconds']:.0f} ms" if n["seconds"] < 1 else f"{n['seconds']:.1f} s"
    show.out().print(
        f"{show.plain(record.settings['delta'])}: {n['tensors']} tensors now divide by "
        f"{record.settings['divide_by']} ({took})"
    )


def show_inspect(record: "Record", *, tensors: bool) -> None:
    """Identity and totals; with `tensors` a line a tensor."""
    n = record.numbers
    page = show.out()
    facts = {
        "delta": record.settings["delta"],
        "made by": f"{n['created_by']}, seed {record.seed}",
        "base": f"{n['base']} ({n['base_tensors']} tensors)",
        "base digest": n["base_digest"],
        "fine-tuned": n["tuned"],
        "bytes": f"{show.size(n['delta_bytes'])}, {n['ratio']}x smaller than the "
        f"{show.size(n['dense_bytes'])} it restores",
        "entropy bound": f"{show.size(n['bound_bytes'])} of payload; all files are "
        f"{n['delta_bytes'] / max(1, n['bound_bytes']):.3f} times that",
        "tensors": ", ".join(f"{count} {form}" for form, count in sorted(n["forms"].items())),
        "dropped": ", ".join(n["dropped"]) or "none",
        "files": ", ".join(f"{name} ({where})" for name, where in n["files"].items()) or "none",
    }
    for what, text in facts.items():
        page.print(f"{what:14} {show.plain(text)}", soft_wrap=True)
    if tensors:
        page.print()
        page.print(_tensor_table(record))
    show_outputs(record, page)


def _tensor_table(record: "Record") -> "Table":
    rows = show.table("tensor", "form", "shape", "kept", "values", "divide by", "rms", "bytes", "bound")
    for name, row in record.tensors.items():
        shape = "x".join(str(side) for side in row["shape"]) or "scalar"
        values: dict[str, Any] = row.get("values", {})
        codec = f"{values.get('codec', '')} {values.get('bits', '')}".strip()
        divisor = row.get("divide_by", "")
        how = f" by {row['score']}" if "score" in row else ""
        if isinstance(divisor, dict):
            divisor = ", ".join(f"{k} {v if isinstance(v, str) else f'{v:.5g}'}" for k, v in divisor.items())
        rows.add_row(
            show.plain(name), row["form"], f"{row['dtype']} {shape}",
            f"{row['kept']:,} {row['mask']}{how}" if "kept" in row else "",
            codec, f"{divisor:.5g}" if isinstance(divisor, float) else str(divisor),
            f"{row['rms']:.2e}" if "rms" in row else "", f"{row['bytes']:,}", f"{row['bound_bytes']:,}",
        )  # fmt: skip
    return rows
