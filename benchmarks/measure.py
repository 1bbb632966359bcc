"""What the benchmarks share: their options, interleaved rounds, medians, and the table they print."""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line: a median of ours beside that of a limit or a peer, in `unit` ("s" or "B"), and the target.

    `at_most` bounds ours / theirs, `at_least` bounds theirs / ours; `theirs` is None where nothing was run.
    """

    what: str
    ours: float
    beside: str = ""
    theirs: float | None = None
    unit: str = "s"
    at_most: float | None = None
    at_least: float | None = None

    def line(self) -> str:
        """The row in markdown."""
        theirs = ratio = target = ""
        if self.theirs is not None:
            found = self.ours / self.theirs if self.at_least is None else self.theirs / self.ours
            theirs, ratio = shown(self.theirs, self.unit), f"{found:.3g} x"
            if self.at_most is not None:
                target = f"at most {self.at_most:g} x: {'met' if found <= self.at_most else 'MISSED'}"
            elif self.at_least is not None:
                target = f"at least {self.at_least:g} x: {'met' if found >= self.at_least else 'MISSED'}"
        return f"| {self.what} | {shown(self.ours, self.unit)} | {self.beside} | {theirs} | {ratio} | {target} |"


def shown(number: float, unit: str) -> str:
    """A number of seconds or bytes, to read; other units as they are."""
    scales = {"s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")), "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))}
    for size, name in scales.get(unit, ()):
        if number >= size:
            return f"{number / size:.4g} {name}" if unit == "B" else f"{number / size:.3g} {name}"
    return f"{number:.3f} {unit}".strip()


def table(title: str, rows: Sequence[Row], *notes: str) -> None:
    """Print rows as a markdown table under a title, with the machine, its load, and notes."""
    print(f"\n### {title}\n\n| measured | deltagram | limit or peer | theirs | ratio | target |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(row.line())
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "zstandard", "blake3"))
    machine = f"{len(os.sched_getaffinity(0))} processors ({platform.machine()}), load {load}"
    print(f"\n{machine}; Python {platform.python_version()}, {versions}.")
    print(*(note for note in notes if note), sep="\n")


def options(doc: str | None, *, runs: int) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where checkpoints go: kept, and reused (else temporary)")
    parser.add_argument("--runs", type=int, default=runs, help=f"interleaved rounds ({runs})")
    return parser


@contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """`folder`, made if need be, or a temporary directory that goes afterwards."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="deltagram-bench-") as name:
            yield Path(name)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()


def rounds(sides: Mapping[str, Callable[[], Result]], *, runs: int) -> dict[str, list[Result]]:
    """What each side gives, run A B A B, so that all see the same machine."""
    found: dict[str, list[Result]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            found[name].append(side())
    return found


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)
