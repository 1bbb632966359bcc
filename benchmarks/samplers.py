"""Time of one pass of batches over 1,000,000 samples, and of their audit, beside torch's and other samplers.

`python benchmarks/samplers.py [--runs N]`

Classes follow a power law. `WeightedRandomSampler` draws single samples with replacement, balanced in expectation
alone; `RandomSampler` shuffles, and nothing is bound; a `BatchSampler` makes batches of both. `MPerClassSampler` may
give fewer than m of a class to a batch. The audit's limit is scipy's `connected_components` of its edges alone.
Sides are interleaved; ratios are of medians.
"""

from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch.utils.data import BatchSampler, RandomSampler, WeightedRandomSampler

from deltagram.data import (
    BindingBatchSampler,
    ClassBalancedBatchSampler,
    EnlargedBatchSampler,
    MPerClassBatchSampler,
    audit_batches,
)
from measure import Row, median, options, rounds, seconds, table

SAMPLES, BATCH = 1_000_000, 256


def labels_of(classes: int) -> np.ndarray:
    """At least one of each class, the others by a power law."""
    share = 1 / np.arange(1, classes + 1)
    rest = np.random.default_rng(0).choice(classes, SAMPLES - classes, p=share / share.sum())
    return np.concatenate([np.arange(classes), rest])


def passes(batches: Iterable[list[int]]) -> Callable[[], int]:
    """One pass over the batches."""
    return lambda: sum(len(batch) for batch in batches)


def row(what: str, *, ours: Callable[[], Any], beside: str, theirs: Callable[[], Any], runs: int) -> Row:
    """Medians of interleaved runs of both sides."""
    sides = {"ours": lambda: seconds(ours), "theirs": lambda: seconds(theirs)}
    times = {name: median(values) for name, values in rounds(sides, runs=runs).items()}
    return Row(what=what, ours=times["ours"], beside=beside, theirs=times["theirs"])


def balanced(runs: int) -> list[Row]:
    rows = []
    for classes in (10, 1000, 10_000):
        labels = labels_of(classes)
        weight = torch.from_numpy(1 / np.bincount(labels)[labels])
        theirs = passes(BatchSampler(WeightedRandomSampler(weight, SAMPLES), BATCH, drop_last=False))
        ours = passes(ClassBalancedBatchSampler(labels, BATCH))
        what = f"ClassBalancedBatchSampler, {classes:,} classes"
        rows.append(row(what, ours=ours, beside="WeightedRandomSampler", theirs=theirs, runs=runs))
    return rows


def bound(runs: int) -> list[Row]:
    rows = []
    for classes, size in ((10, BATCH), (10_000, 10_000)):
        labels = labels_of(classes)
        theirs = passes(BatchSampler(RandomSampler(range(SAMPLES)), size, drop_last=False))
        for name, sampler in {
            "BindingBatchSampler": BindingBatchSampler(labels, size),
            'the same, rotate="batch"': BindingBatchSampler(labels, size, rotate="batch"),
            "EnlargedBatchSampler": EnlargedBatchSampler(labels, size, extra=classes),
        }.items():
            what = f"{name}, {classes:,} classes, batches of {size:,} and {classes:,}"
            rows.append(row(what, ours=passes(sampler), beside="RandomSampler", theirs=theirs, runs=runs))
    return rows


def m_per_class(runs: int) -> list[Row]:
    if find_spec("pytorch_metric_learning") is None:
        return []
    from pytorch_metric_learning.samplers import MPerClassSampler  # noqa: PLC0415 - a peer that may be absent

    rows = []
    for classes, m in ((1000, 4), (10_000, 4)):
        labels = labels_of(classes)
        size = m * min(classes, BATCH // m)
        theirs = MPerClassSampler(labels, m=m, batch_size=size, length_before_new_iter=SAMPLES)
        ours = MPerClassBatchSampler(labels, size, per_class=m)
        what = f"MPerClassBatchSampler, {m} of each of {size // m} of {classes:,} classes"
        other = passes(BatchSampler(theirs, size, drop_last=False))
        rows.append(row(what, ours=passes(ours), beside="MPerClassSampler", theirs=other, runs=runs))
    return rows


def audits(runs: int) -> list[Row]:
    rows = []
    for classes, size in ((10, BATCH), (10_000, 10_000)):
        labels = labels_of(classes)
        for what, sampler in {
            "bound: unique": BindingBatchSampler(labels, size),
            "shuffled once: repair found": EnlargedBatchSampler(labels, size, extra=1),
        }.items():
            batches = [np.array(batch) for batch in sampler]
            edges = edges_of(batches, labels)
            text = f"audit_batches, {classes:,} classes, batches of {size:,}, {what}"
            ours = partial(audit_batches, batches, labels, dim=4 * classes)
            theirs = partial(connected_components, edges, directed=False)
            rows.append(row(text, ours=ours, beside="connected_components", theirs=theirs, runs=runs))
    return rows


def edges_of(batches: list[np.ndarray], labels: np.ndarray) -> coo_array:
    """An edge between each sample of a batch and the next of its class."""
    ordered = [batch[np.argsort(labels[batch], kind="stable")] for batch in batches]
    first = np.concatenate([batch[:-1][np.diff(labels[batch]) == 0] for batch in ordered])
    second = np.concatenate([batch[1:][np.diff(labels[batch]) == 0] for batch in ordered])
    return coo_array((np.ones(len(first)), (first, second)), shape=(SAMPLES, SAMPLES))


def main() -> None:
    runs = options(__doc__, runs=5).parse_args().runs
    note = f"torch {torch.__version__}."
    table(f"One pass over {SAMPLES:,} samples in batches of {BATCH}", balanced(runs), note)
    table(f"One pass over {SAMPLES:,} samples: for contrastive losses", bound(runs) + m_per_class(runs), note)
    table(f"Audit of one pass over {SAMPLES:,} samples", audits(runs), note)


if __name__ == "__main__":
    main()
