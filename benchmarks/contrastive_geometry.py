"""The class-level contrastive program beside cvxpy, and at sizes cvxpy does not reach.

`OMP_NUM_THREADS=1 python benchmarks/contrastive_geometry.py [--runs N]`

10 to 50 classes, counts all different, temperature .5: seconds of the processor beside cvxpy with SCS and with Clarabel
(one round each), with both objectives and our certified gap (of the part of the loss that geometry decides). Then 1,000
classes of ten counts, 200 of their own counts, 100 with simplex prototypes, and the best separation of 50 in 10
dimensions beside its bound.
"""

from collections.abc import Callable

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import DeltagramError
from deltagram.geometry.contrastive import certified, certified_prototypes
from deltagram.geometry.convex import contrastive_program
from deltagram.geometry.gramsolver import Excess
from deltagram.geometry.separation import separation
from measure import Row, median, options, table
from predict import processor_seconds

TEMPERATURE = 0.5
SIZES = (10, 20, 30, 40, 50)
SOLVERS = ("CLARABEL", "SCS")


def drawn(classes: int) -> F64:
    """Different counts, from 1 to 5,000."""
    return np.random.default_rng(0).permutation(5000)[:classes] + 1.0


def ours(work: Callable[[], Excess | None], *, runs: int) -> tuple[float, Excess]:
    """Median seconds, and the proof."""
    proof = work()
    if proof is None:
        raise SystemExit("a prediction without a certificate")
    return median([processor_seconds(work) for _ in range(runs)]), proof


def beside_convex(*, runs: int) -> tuple[list[Row], list[str]]:
    """Both sides, and how much lower our objective is."""
    rows, notes = [], []
    for solver in SOLVERS:
        contrastive_program([3, 2], temperature=TEMPERATURE, solver=solver)  # what is loaded once is not measured
    for k in SIZES:
        counts = drawn(k)
        took, proof = ours(lambda n=counts: certified(n, temperature=TEMPERATURE, features="free")[1], runs=runs)
        notes.append(f"{k} classes: certified relative gap {abs(proof.gap):.1e}.")
        for solver in SOLVERS:
            values: list[float] = []
            try:
                theirs = processor_seconds(
                    lambda n=counts, by=solver, into=values: into.append(
                        contrastive_program(n, temperature=TEMPERATURE, solver=by).value
                    )
                )
            except DeltagramError as fault:
                notes.append(f"{k} classes, {solver}: {fault}.")
                continue
            rows.append(Row(what=f"{k} classes", ours=took, beside=f"cvxpy, {solver}", theirs=theirs))
            notes.append(
                f"cvxpy, {solver}, {k} classes: objective {(values[0] - proof.value) / proof.primal:+.1e} of ours."
            )
    return rows, notes


def larger(*, runs: int) -> tuple[list[Row], list[str]]:
    """Sizes without a peer."""
    ten = np.repeat(np.logspace(3, 0.5, 10).round(), 100)
    own = drawn(200)
    two = np.repeat([20.0, 2.0], 50)
    works: dict[str, Callable[[], Excess | None]] = {
        "1,000 classes of ten counts": lambda: certified(ten, features="free")[1],
        "200 classes of their own counts": lambda: certified(own, features="free")[1],
        "100 classes, 5 simplex prototypes each": lambda: certified_prototypes(two, design="etf", copies=5.0)[1],
    }
    rows, notes = [], []
    for what, work in works.items():
        took, proof = ours(work, runs=runs)
        rows.append(Row(what=what, ours=took))
        notes.append(f"{what}: certified relative gap {abs(proof.gap):.1e}.")
    rows.append(Row(what="separation, 50 in 10 dimensions", ours=processor_seconds(lambda: separation(50, 10))))
    found = separation(50, 10)
    notes.append(f"separation, 50 in 10 dimensions: largest cosine {found.max_cosine:.4f}, bound {found.bound:.4f}.")
    return rows, notes


def main() -> None:
    given = options(__doc__, runs=5).parse_args()
    convex_rows, convex_notes = beside_convex(runs=given.runs)
    rows, notes = larger(runs=given.runs)
    table("Contrastive geometry", [*convex_rows, *rows], *convex_notes, *notes)


if __name__ == "__main__":
    main()
