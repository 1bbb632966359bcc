"""Measuring the geometry of classes beside the usual ways, restated here from their formulas, in one run.

`python benchmarks/moments.py [--runs N]`

Targets: class means at least 50 x a product with one-hot labels at 1,000 classes and 500 x at 32,000; NC1 at least
100 x the pseudo-inverse of a feature-by-feature matrix at 10 classes and 2,048 features; NC2 and NC3 of 32,000 classes
and 768 features in at most 2 s and 100 MB beyond the means. Sides are interleaved; ratios are of medians.
"""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from deltagram.data.scores import ClassScores
from deltagram.geometry.collapse import cdnv, nc1
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.predict import etf
from deltagram.geometry.symmetry import Vectors, alignment, apart, frame, self_duality
from measure import Row, median, options, rounds, seconds, shown, table

BATCH, WIDTH, BATCHES = 2048, 768, 8
LIMIT_SECONDS, LIMIT_BYTES = 2.0, 100e6


def beside(ours: Callable[[], object], theirs: Callable[[], object], *, runs: int) -> tuple[float, float]:
    """Median seconds of each, the first round left out."""
    found = rounds({"ours": lambda: seconds(ours), "theirs": lambda: seconds(theirs)}, runs=runs + 1)
    return median(found["ours"][1:]), median(found["theirs"][1:])


def updates(classes: int, *, runs: int, at_least: float) -> list[Row]:
    """A batch into class means (and traces, which come with them) and into one-hot products; mean over `BATCHES`."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCHES, BATCH, WIDTH), dtype=np.float32)
    y = rng.integers(0, classes, (BATCHES, BATCH))
    features, labels = torch.from_numpy(x), torch.from_numpy(y)
    counts, sums = torch.zeros(classes), torch.zeros(classes, WIDTH)
    state, full = (ClassMoments.empty(classes, WIDTH, scatter=kind) for kind in ("trace", "full"))

    def taken(into: ClassMoments) -> None:
        for number in range(BATCHES):
            into.update_in_place(x[number], y[number])

    def one_hot() -> None:
        for number in range(BATCHES):
            hot = (labels[number][None, :] == torch.arange(classes)[:, None]).float()
            counts.add_(hot.sum(1))
            sums.add_(hot @ features[number])

    ours, theirs = beside(lambda: taken(state), one_hot, runs=runs)
    assert np.allclose(state.means, (sums / counts.clamp(min=1)[:, None]).numpy(), atol=1e-4)
    scatter, _ = beside(lambda: taken(full), lambda: None, runs=max(1, runs // 3))
    what = f"means and traces, {classes:,} classes, batch of {BATCH:,} x {WIDTH}"
    return [
        Row(what=what, ours=ours / BATCHES, beside="one-hot product, means alone", theirs=theirs / BATCHES,
            at_least=at_least),
        Row(what=f"the same and the scatter matrix, {classes:,} classes", ours=scatter / BATCHES),
    ]  # fmt: skip


def spread(*, runs: int) -> list[Row]:
    """NC1 and CDNV."""
    rng = np.random.default_rng(0)
    means, root = rng.standard_normal((10, 2048)), rng.standard_normal((2048, 64))
    means -= means.mean(0)
    within, shares = root @ root.T, np.full(10, 0.1)
    between = torch.from_numpy(means.T @ means / 10).float()
    values: list[float] = []

    def pinv() -> None:
        values[:] = [float(torch.trace(torch.from_numpy(within).float() @ torch.linalg.pinv(between)))]

    ours, theirs = beside(lambda: nc1(within, means, shares), pinv, runs=max(1, runs // 5))
    assert np.isclose(values[0], nc1(within, means, shares), rtol=1e-2), values
    many, variances = rng.standard_normal((1000, 512)), rng.random(1000)
    tensor, spreads = torch.from_numpy(many).float(), torch.from_numpy(variances).float()

    def broadcast() -> None:
        total = 0.0
        for start in range(0, 1000, 64):  # both triangles, a tile of differences at a time
            for other in range(0, 1000, 64):
                off = tensor[start : start + 64, None] - tensor[None, other : other + 64]
                both = spreads[start : start + 64, None] + spreads[None, other : other + 64]
                ratio = both / 2 / off.square().sum(-1)
                total += float(ratio[torch.isfinite(ratio)].sum())
        values[:] = [total / (1000 * 999)]

    pairs, tiles = beside(lambda: cdnv(variances, many), broadcast, runs=max(1, runs // 3))
    assert np.isclose(values[0], cdnv(variances, many), rtol=1e-3), values
    return [
        Row(what="NC1, 10 classes, 2,048 features", ours=ours, beside="pinv of 2,048 x 2,048, float32", theirs=theirs,
            at_least=100),
        Row(what="CDNV, 1,000 classes, 512 features", ours=pairs, beside="tiles of differences, float32",
            theirs=tiles, at_least=5),
    ]  # fmt: skip


def frames(*, runs: int) -> list[Row]:
    """NC2 of means and classifiers, NC3 and the distance of logits, at 32,000 classes."""
    rng = np.random.default_rng(0)
    classes = 32_000
    means = rng.standard_normal((classes, WIDTH))
    weights = rng.standard_normal((classes, WIDTH)).astype(np.float32)
    there, simplex = np.arange(classes), etf(classes).means

    def vectors() -> tuple[Vectors, Vectors]:
        return (Vectors(rows=weights, there=there, centre=np.zeros(WIDTH)),
                Vectors(rows=means, there=there, centre=means.mean(0)))  # fmt: skip

    def errors() -> None:
        w, m = vectors()
        for one, other in ((w, w), (m, m), (w, m)):
            apart(one, other, simplex)
        self_duality(w, m)
        alignment(w, m)

    def all_of_it() -> None:
        w, m = vectors()
        frame(w, simplex), frame(m, simplex)
        apart(w, m, simplex)
        self_duality(w, m)
        alignment(w, m)

    few = max(1, runs // 5)
    distances = median([seconds(errors) for _ in range(few)])
    whole = median([seconds(all_of_it) for _ in range(few)])
    warm = np.ones(1 << 20)  # so that the peak stands where the memory does
    grown = growth(all_of_it)
    del warm
    what = "32,000 classes, 768 features"
    return [
        Row(what=f"Gram distances of NC2, NC3, alignment; {what}", ours=distances, beside="limit", theirs=LIMIT_SECONDS,
            at_most=1),
        Row(what=f"those and all angles; {what}", ours=whole, beside="limit", theirs=LIMIT_SECONDS, at_most=1),
        Row(what="memory beyond means and classifiers", ours=grown, beside="limit", theirs=LIMIT_BYTES, unit="B",
            at_most=1),
    ]  # fmt: skip


def growth(work: Callable[[], object]) -> float:
    """Bytes by which the resident memory peaks above where it stood (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    work()
    return _peak() - before


def _peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def scores(*, runs: int) -> list[Row]:
    """Balanced accuracy of a million predictions of 10,000 classes."""
    if find_spec("torchmetrics") is None:
        return []
    from torchmetrics.classification import MulticlassAccuracy  # noqa: PLC0415 - a peer that may be missing

    true, guess = np.random.default_rng(0).integers(0, 10_000, (2, 1_000_000))
    right, said = torch.from_numpy(true), torch.from_numpy(guess)

    def peer() -> None:
        metric = MulticlassAccuracy(num_classes=10_000, average="macro", validate_args=False)
        metric.update(said, right)
        metric.compute()

    ours, theirs = beside(
        lambda: ClassScores.of(true, guess, classes=10_000).balanced_accuracy, peer, runs=max(1, runs // 5)
    )
    return [Row(what="balanced accuracy, 10^6 samples, 10,000 classes", ours=ours,
                beside="torchmetrics MulticlassAccuracy(macro)", theirs=theirs, at_least=50)]  # fmt: skip


def main() -> None:
    given = options(__doc__, runs=15).parse_args()
    runs = given.runs
    rows = [
        *updates(1000, runs=runs, at_least=50), *updates(32_000, runs=max(2, runs // 3), at_least=500),
        *spread(runs=runs), *frames(runs=runs), *scores(runs=runs),
    ]  # fmt: skip
    means = shown(32_000 * WIDTH * 8, "B")
    table(
        "The geometry of classes, measured", rows,
        f"torch {torch.__version__}, {torch.get_num_threads()} threads. 32,000 means of {WIDTH} take {means}; "
        f"a Gram of 32,000 classes would take {shown(8 * 32_000**2, 'B')}.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
