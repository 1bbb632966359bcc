"""The geometry of next tokens: the margin program to a certified gap, beside cvxpy, and the largest directions.

`OMP_NUM_THREADS=1 python benchmarks/next_token.py [--runs N] [--convex]`

Language-like supports: frequent words, topics, sizes with a heavy tail. 200 words and 1,000 contexts to a relative
duality gap of 1e-6. 50 words and 100 contexts beside cvxpy with SCS, and with `--convex` with Clarabel, which takes
many minutes (one round each), with both objectives. The 32 largest triplets of 30,000 words and 300,000 contexts, and
their peak memory beside the bytes of the matrix. In seconds of the processor, which a busy machine does not stretch.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from deltagram.data.labels import LabelMatrix
from deltagram.errors import DeltagramError
from deltagram.geometry.convex import support_program
from deltagram.geometry.factors import centred_factors
from deltagram.geometry.supportsvm import max_margin
from measure import Row, median, options, table

GAP = 1e-6
TARGET = 15.0  # seconds
TOP = 32


def language_like(words: int, contexts: int) -> LabelMatrix:
    """Supports of frequent words and topics, drawn a context at a time."""
    rng = np.random.default_rng(0)
    topic = rng.integers(10, size=words)
    found = np.zeros((words, contexts))
    for context in range(contexts):
        size = min(1 + int(rng.pareto(1.0) * 1.5), words // 2)
        odds = (1 + 20 * (topic == rng.integers(10))) / (np.arange(words) + 2.0)
        found[rng.choice(words, size=size, replace=False, p=odds / odds.sum()), context] = 1
    return LabelMatrix.of_counts(found)


def large(words: int = 30_000, contexts: int = 300_000) -> LabelMatrix:
    """Counts of frequent words, sizes with a heavy tail, for as many contexts as do not fit densely."""
    rng = np.random.default_rng(0)
    size = np.minimum(1 + (rng.pareto(1.2, contexts) * 2.5).astype(np.int64), 2000)
    odds = 1 / (np.arange(words) + 3.0)
    drawn: NDArray[np.int64] = rng.choice(words, size=int(size.sum()), p=odds / odds.sum())
    at = np.repeat(np.arange(contexts), size)
    counts = sparse.coo_array((np.ones(len(at)), (drawn, at)), shape=(words, contexts))
    return LabelMatrix.of_counts(counts.tocsc())


def processor_seconds(work: Callable[[], object]) -> float:
    """Processor time of one call, in this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def solver(*, runs: int) -> tuple[list[Row], list[str]]:
    """Seconds to a certified gap, with and without the test of uniqueness."""
    labels = language_like(200, 1000)
    found = max_margin(labels, tolerance=GAP)
    rows, notes = [], []
    for what, look in (("", False), (" and uniqueness", True)):
        solve = partial(max_margin, labels, tolerance=GAP, look_for_others=look)
        took = median([processor_seconds(solve) for _ in range(runs)])
        rows.append(Row(what=f"200 words, 1,000 contexts to a gap of {GAP:g}{what}", ours=took))
        notes.append(f"{rows[-1].what}: {took:.2f} s, {'met' if took <= TARGET else 'MISSED'} ({TARGET:g} s).")
    notes.append(
        f"{found.program.mask.shape[1]} distinct supports; {found.iterations} iterations, certified gap "
        f"{found.gap:.1e}, unique: {found.uniqueness.unique}, rank {found.rank}; norm {found.primal:.6f}, centred "
        f"supports {found.proxy.value / found.primal - 1:.2%} above it; {found.slack:.0%} of margins have slack."
    )
    return rows, notes


def beside_convex(solvers: tuple[str, ...], *, runs: int) -> tuple[list[Row], list[str]]:
    """Seconds beside cvxpy, and how far the objectives are apart."""
    labels = language_like(50, 100)
    found = max_margin(labels, tolerance=GAP)
    took = median([processor_seconds(partial(max_margin, labels, tolerance=GAP)) for _ in range(runs)])
    rows, notes = [], [f"50 words, 100 contexts: certified gap {found.gap:.1e}."]
    for name in solvers:
        values: list[float] = []
        try:
            theirs = processor_seconds(lambda: values.append(support_program(labels, solver=name).value))  # noqa: B023
        except DeltagramError as fault:
            notes.append(f"{fault}.")
            continue
        what, beside = "50 words, 100 contexts, uniqueness with it", f"cvxpy, {name}"
        rows.append(Row(what=what, ours=took, beside=beside, theirs=theirs, at_least=100))
        notes.append(f"{beside}: objective {values[0] / found.primal - 1:+.1e} of ours.")
    return rows, notes


def directions() -> list[Row]:
    """Seconds and peak bytes of the largest triplets, plain and at a ridge."""
    labels = large()
    rows = []
    for told, ridge in (("", None), (", weighted for a ridge", 1e-8)):
        took = processor_seconds(partial(centred_factors, labels, TOP, ridge=ridge))
        rows.append(Row(what=f"{TOP} triplets of 30,000 words, 300,000 contexts{told}", ours=took))
    tracemalloc.start()
    centred_factors(labels, TOP)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    dense = 8.0 * labels.shape[0] * labels.shape[1]
    rows.append(Row(what=f"the same, {labels.support.nnz:,} entries: peak", ours=peak, unit="B", beside="the matrix",
                    theirs=dense, at_most=0.01))  # fmt: skip
    return rows


def main() -> None:
    parser = options(__doc__, runs=3)
    parser.add_argument("--convex", action="store_true", help="cvxpy with Clarabel too: minutes")
    given = parser.parse_args()
    rows, notes = solver(runs=given.runs)
    more, told = beside_convex(("SCS", "CLARABEL") if given.convex else ("SCS",), runs=given.runs)
    table("Next-token geometry: solver", [*rows, *more, *directions()], *notes, *told)


if __name__ == "__main__":
    sys.exit(main())
