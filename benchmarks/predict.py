"""Predicted geometry beside a dense decomposition and a convex solver.

`OMP_NUM_THREADS=1 python benchmarks/predict.py [--runs N]`

10,000 classes with counts of their own: time and peak memory, beside the bytes of one dense Gram. 500 classes: beside a
dense singular value decomposition, after comparing all entries. 50 classes of different counts at a ridge: beside cvxpy
with SCS and with Clarabel (one round each), with both objectives and our certified gap; in seconds of the processor,
which a busy machine does not stretch.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import DeltagramError
from deltagram.geometry import predict
from deltagram.geometry.convex import ridge_program
from deltagram.geometry.gram import Geometry
from deltagram.geometry.path import finite_ridge
from deltagram.geometry.problem import Problem
from deltagram.geometry.summary import rows
from measure import Row, median, options, rounds, seconds, table

MANY, DENSE, CONVEX = 10_000, 500, 50
RIDGE = 1.0


def described(counts: F64) -> Geometry:
    """A prediction that is looked at: norms, cosines, alignment of all classes."""
    geometry = predict.seli(counts)
    rows(geometry)
    return geometry


def dense(counts: F64) -> tuple[F64, F64]:
    """Both Grams by a dense singular value decomposition."""
    k, r = len(counts), np.sqrt(counts)
    u, s, v = np.linalg.svd((np.eye(k) - 1 / k) * r)
    s[-1] = 0.0
    return (u * s) @ u.T, (v.T * s) @ v / np.outer(r, r)


def processor_seconds(work: Callable[[], object]) -> float:
    """Processor time of one call, in this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def many(*, runs: int) -> list[Row]:
    """Seconds and peak bytes of a prediction for 10,000 classes."""
    counts = np.random.default_rng(0).integers(1, MANY, MANY).astype(np.float64)
    took = median([seconds(partial(described, counts)) for _ in range(runs)])
    tracemalloc.start()
    described(counts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    what = f"{MANY:,} classes of {len(np.unique(counts)):,} counts"
    return [
        Row(what=what, ours=took),
        Row(what=f"{what}: peak", ours=peak, unit="B", beside="one dense Gram", theirs=8 * MANY**2),
    ]


def beside_dense(*, runs: int) -> tuple[Row, str]:
    """Seconds beside a dense decomposition, whose entries are ours."""
    counts = np.random.default_rng(1).integers(1, 10_000, DENSE).astype(np.float64)
    geometry, expected = predict.seli(counts), dense(counts)
    grams = (geometry.classifiers, geometry.means)
    worst = max(
        float(np.abs(gram.dense() - want).max() / np.abs(want).max())
        for gram, want in zip(grams, expected, strict=True)
        if gram is not None
    )
    if worst > 1e-10:
        sys.exit(f"the Grams differ by {worst:.1e}")
    sides = {"ours": partial(predict.seli, counts), "dense": partial(dense, counts)}
    times = rounds({name: partial(seconds, side) for name, side in sides.items()}, runs=runs)
    row = Row(
        what=f"{DENSE} classes", ours=median(times["ours"]), beside="dense decomposition", theirs=median(times["dense"])
    )
    return row, f"{DENSE} classes: largest difference from the dense Grams {worst:.1e} of their largest entry."


def beside_convex(*, runs: int) -> tuple[list[Row], list[str]]:
    """Seconds beside cvxpy, and how much lower our objective is."""
    problem = Problem.of(np.random.default_rng(2).permutation(500)[:CONVEX] + 1)
    took = median([processor_seconds(lambda: finite_ridge(problem, RIDGE)) for _ in range(runs)])
    _, proof = finite_ridge(problem, RIDGE)
    found, notes = [], [f"{CONVEX} classes, ridge {RIDGE:g}: certified relative gap {abs(proof.gap):.1e}."]
    for solver in ("SCS", "CLARABEL"):
        values: list[float] = []
        try:
            theirs = processor_seconds(lambda: values.append(ridge_program(problem, RIDGE, solver=solver).value))  # noqa: B023
        except DeltagramError as fault:
            notes.append(f"{fault}.")
            continue
        beside = f"cvxpy, {solver}"
        found.append(Row(what=f"{CONVEX} classes at a ridge", ours=took, beside=beside, theirs=theirs, at_least=100))
        notes.append(f"{beside}: objective {values[0] - proof.primal:+.1e} beside ours.")
    return found, notes


def main() -> None:
    given = options(__doc__, runs=7).parse_args()
    dense_row, dense_note = beside_dense(runs=given.runs)
    convex_rows, convex_notes = beside_convex(runs=given.runs)
    table(
        "Predicted geometry", [*many(runs=given.runs), dense_row, *convex_rows], dense_note, *convex_notes
    )  # fmt: skip


if __name__ == "__main__":
    main()
