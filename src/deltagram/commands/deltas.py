"""`prune`, `inspect`, `verify`, `restore`, `rescale`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltagram import show
from deltagram.commands.options import (
    BaseModel,
    DeltaFolder,
    Force,
    Json,
    Threads,
    TunedModel,
    emit,
    parse_bytes,
    renames,
)

if TYPE_CHECKING:
    from rich.table import Table

    from deltagram.records import Record


def prune(
    base: BaseModel,
    tuned: TunedModel,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Delta directory to write.")],
    keep: Annotated[float | None, typer.Option(help="Share of entries to keep, in (0, 1]; 0.01 unless given.")] = None,
    budget: Annotated[str | None, typer.Option(help="Instead of --keep: bytes the delta may take (20MB).")] = None,
    method: Annotated[str, typer.Option(help="random, bernoulli, magnitude or exact (lossless).")] = "random",
    adapter: Annotated[
        str, typer.Option(help="What of a PEFT adapter is pruned: product (what it adds), or factors (A and B).")
    ] = "product",
    divide_by: Annotated[str, typer.Option(help="What kept values are divided by: dare, or a number.")] = "dare",
    values: Annotated[
        str | None,
        typer.Option(help="f32, bf16, f16, 8bit to 2bit, sign, codebook8, 4, 3, 2; bf16, or 4bit with --budget."),
    ] = None,
    pack: Annotated[bool, typer.Option("--pack/--no-pack", help="Compress the values losslessly.")] = True,
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
            hub.locate(base), hub.locate(tuned), out, keep=keep, budget=size, method=method, divide_by=divide_by,
            values=values, pack=pack, plan=plan, whole=whole or (), rename=pairs, seed=seed, with_code=with_code,
            adapter=adapter, force=force, threads=threads, progress=bar,
        )  # fmt: skip
    emit(record, show_prune, json=json)


def inspect(
    delta: DeltaFolder,
    tensors: Annotated[bool, typer.Option("--tensors", help="One line a tensor.")] = False,
    json: Json = False,
) -> None:
    """Identity, plan, statistics, and bytes against the entropy bound; needs no base."""
    from deltagram import jobs  # noqa: PLC0415

    with show.progress(quiet=json) as bar:
        record = jobs.inspect(delta, progress=bar)
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
    divide_by: Annotated[str, typer.Option(help="dare (each tensor's kept share), or a number.")],
    json: Json = False,
) -> None:
    """Change what kept values are divided by: replaces the small file of scales only."""
    from deltagram import jobs  # noqa: PLC0415

    record = jobs.rescale(delta, divide_by=divide_by)
    emit(record, show_rescale, json=json)


def show_prune(record: "Record") -> None:
    """One line of result, one of plan."""
    n = record.numbers
    forms = Counter(row["form"] for row in record.tensors.values())
    page = show.out()
    tuned = "adapter" if record.settings["adapter"] else "fine-tuned checkpoint"
    page.print(
        f"{show.plain(record.settings['out'])}: {show.size(n['delta_bytes'])}, {n['ratio']}x smaller than the "
        f"{tuned} ({show.size(n['tuned_bytes'])}), in {n['seconds']:.2f} s"
    )
    page.print(f"plan: {', '.join(f'{count} {form}' for form, count in sorted(forms.items()))}; {n['matching']}")
    for what, names in (("dropped (not in the fine-tuned model)", n["dropped"]), ("left behind", n["left_behind"])):
        if names:
            page.print(
                f"{what}: {show.plain(', '.join(names[:6]))}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"
            )


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
    """One line of result."""
    n = record.numbers
    show.out().print(
        f"{show.plain(record.settings['delta'])}: {n['tensors']} tensors now divide by {record.settings['divide_by']} "
        f"({1000 * n['seconds']:.0f} ms)"
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


def _tensor_table(record: "Record") -> "Table":
    rows = show.table("tensor", "form", "shape", "kept", "values", "divide by", "rms", "bytes", "bound")
    for name, row in record.tensors.items():
        shape = "x".join(str(side) for side in row["shape"]) or "scalar"
        values: dict[str, Any] = row.get("values", {})
        codec = f"{values.get('codec', '')} {values.get('bits', '')}".strip()
        divisor = row.get("divide_by", "")
        if isinstance(divisor, dict):
            divisor = ", ".join(f"{k} {v if isinstance(v, str) else f'{v:.5g}'}" for k, v in divisor.items())
        rows.add_row(
            show.plain(name), row["form"], f"{row['dtype']} {shape}",
            f"{row['kept']:,} {row['mask']}" if "kept" in row else "",
            codec, f"{divisor:.5g}" if isinstance(divisor, float) else str(divisor),
            f"{row['rms']:.2e}" if "rms" in row else "", f"{row['bytes']:,}", f"{row['bound_bytes']:,}",
        )  # fmt: skip
    return rows
