"""What the command line shows a person: progress on a terminal, results as short tables."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from deltagram import progress as protocol


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


def table(*columns: str) -> Table:
    """An empty table: the first column to the left, the others to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def out() -> Console:
    """Standard output."""
    wide = None if sys.stdout.isatty() else 1000  # a pipe gets whole lines
    return Console(width=wide, highlight=False, markup=False, force_terminal=sys.stdout.isatty())
