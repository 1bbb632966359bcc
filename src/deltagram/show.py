"""What the command line shows a person: progress on a terminal, results as short tables."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from deltagram import progress as protocol
from deltagram.records import Record


class Bar:
    """A `Progress` drawn on standard error."""

    def __init__(self, drawn: Progress) -> None:
        self._drawn = drawn
        self._tasks: dict[str, TaskID] = {}

    def advance(self, what: str, done: int, total: int) -> None:
        """Move the bar of a stage."""
        if what not in self._tasks:
            self._tasks[what] = self._drawn.add_task(what, total=total)
        self._drawn.update(self._tasks[what], completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a sentence above the bars."""
        self._drawn.console.print(text, highlight=False, markup=False)


@contextmanager
def progress(*, quiet: bool) -> Iterator[protocol.Progress]:
    """Bars on a terminal; silence in a pipe or with --json."""
    console = Console(stderr=True)
    if quiet or not sys.stderr.isatty():
        yield protocol.SILENT
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as drawn:
        yield Bar(drawn)


def plain(text: object) -> str:
    """Text on one line, with escapes for what would steer a terminal or that it cannot print."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def size(count: float) -> str:
    """Bytes for people: 1,234 B, 12.3 kB, 4.5 MB."""
    if count < 1000:
        return f"{count:,.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"
    return f"{count / 1000:.1f} TB"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _out() -> Console:
    wide = None if sys.stdout.isatty() else 1000  # a pipe gets whole lines
    return Console(width=wide, highlight=False, markup=False, force_terminal=sys.stdout.isatty())


def show_prune(record: Record) -> None:
    """One line of result, one of plan."""
    n = record.numbers
    forms = Counter(row["form"] for row in record.tensors.values())
    out = _out()
    out.print(
        f"{plain(record.settings['out'])}: {size(n['delta_bytes'])}, {n['ratio']}x smaller than the fine-tuned "
        f"checkpoint ({size(n['tuned_bytes'])}), in {n['seconds']:.2f} s"
    )
    out.print(f"plan: {', '.join(f'{count} {form}' for form, count in sorted(forms.items()))}; {n['matching']}")
    for what, names in (("dropped (not in the fine-tuned model)", n["dropped"]), ("left behind", n["left_behind"])):
        if names:
            out.print(f"{what}: {plain(', '.join(names[:6]))}{f' and {len(names) - 6} more' if len(names) > 6 else ''}")


def show_restore(record: Record) -> None:
    """One line of result."""
    n = record.numbers
    shards = f" in {n['shards']} shards" if n["shards"] > 1 else ""
    what = f"{n['tensors']} tensors, {size(n['restored_bytes'])}{shards}"
    _out().print(f"{plain(record.settings['out'])}: {what}, in {n['seconds']:.2f} s")


def show_verify(record: Record) -> None:
    """What was checked."""
    n = record.numbers
    base = (
        "; the base is the right one and every tensor restores" if n["base_checked"] else "; the base was not checked"
    )
    _out().print(
        f"{plain(record.settings['delta'])}: sound, {n['tensors']} tensors, digest {n['digest'][:16]}...{base}"
    )


def show_rescale(record: Record) -> None:
    """One line of result."""
    n = record.numbers
    _out().print(
        f"{plain(record.settings['delta'])}: {n['tensors']} tensors now divide by {record.settings['divide_by']} "
        f"({1000 * n['seconds']:.0f} ms)"
    )


def show_inspect(record: Record, *, tensors: bool) -> None:
    """Identity and totals; with `tensors` a line a tensor."""
    n = record.numbers
    out = _out()
    facts = {
        "delta": record.settings["delta"],
        "made by": f"{n['created_by']}, seed {record.seed}",
        "base": f"{n['base']} ({n['base_tensors']} tensors)",
        "base digest": n["base_digest"],
        "fine-tuned": n["tuned"],
        "bytes": f"{size(n['delta_bytes'])}, {n['ratio']}x smaller than the {size(n['dense_bytes'])} it restores",
        "entropy bound": f"{size(n['bound_bytes'])} of payload; all files are "
        f"{n['delta_bytes'] / max(1, n['bound_bytes']):.3f} times that",
        "tensors": ", ".join(f"{count} {form}" for form, count in sorted(n["forms"].items())),
        "dropped": ", ".join(n["dropped"]) or "none",
        "files": ", ".join(f"{name} ({where})" for name, where in n["files"].items()) or "none",
    }
    for what, text in facts.items():
        out.print(f"{what:14} {plain(text)}", soft_wrap=True)
    if tensors:
        out.print()
        out.print(_tensor_table(record))


def _tensor_table(record: Record) -> Table:
    table = _table("tensor", "form", "shape", "kept", "values", "divide by", "rms", "bytes", "bound")
    for name, row in record.tensors.items():
        shape = "x".join(str(side) for side in row["shape"]) or "scalar"
        values: dict[str, Any] = row.get("values", {})
        codec = f"{values.get('codec', '')} {values.get('bits', '')}".strip()
        divisor = row.get("divide_by", "")
        table.add_row(
            plain(name), row["form"], f"{row['dtype']} {shape}",
            f"{row['kept']:,} {row['mask']}" if "kept" in row else "",
            codec, f"{divisor:.5g}" if isinstance(divisor, float) else str(divisor),
            f"{row['rms']:.2e}" if "rms" in row else "", f"{row['bytes']:,}", f"{row['bound_bytes']:,}",
        )  # fmt: skip
    return table


def show_demo(record: Record) -> None:
    """The table of the demo."""
    table = _table("variant", "stored", "bytes", "ratio", "accuracy", "prune s", "restore s")
    for row in record.numbers["rows"]:
        table.add_row(
            row["variant"], row["stored"], size(row["bytes"]) if row["bytes"] is not None else "",
            f"{row['ratio']:.1f}x" if row["ratio"] is not None else "",
            f"{row['accuracy']:.3f}" if row["accuracy"] is not None else "",
            f"{row['prune_seconds']:.2f}" if row["prune_seconds"] is not None else "",
            f"{row['restore_seconds']:.2f}" if row["restore_seconds"] is not None else "",
        )  # fmt: skip
    _out().print(table)
