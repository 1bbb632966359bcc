"""Time of one pass of class-balanced batches over 1,000,000 samples, beside torch's WeightedRandomSampler.

`python benchmarks/samplers.py [--runs N]`

The peer draws single samples with replacement, balanced in expectation alone; a `BatchSampler` makes batches of them.
Classes follow a power law. Sides are interleaved; ratios are of medians.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch.utils.data import BatchSampler, WeightedRandomSampler

from deltagram.data import ClassBalancedBatchSampler
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


def main() -> None:
    given = options(__doc__, runs=5).parse_args()
    rows = []
    for classes in (10, 1000, 10_000):
        labels = labels_of(classes)
        weight = torch.from_numpy(1 / np.bincount(labels)[labels])
        sides = {
            "ours": passes(ClassBalancedBatchSampler(labels, BATCH)),
            "theirs": passes(BatchSampler(WeightedRandomSampler(weight, SAMPLES), BATCH, drop_last=False)),
        }
        times = {
            name: median(values)
            for name, values in rounds(
                {name: lambda side=side: seconds(side) for name, side in sides.items()}, runs=given.runs
            ).items()
        }
        what = f"ClassBalancedBatchSampler, {classes:,} classes"
        rows.append(Row(what=what, ours=times["ours"], beside="WeightedRandomSampler", theirs=times["theirs"]))
    table(f"One pass over {SAMPLES:,} samples in batches of {BATCH}", rows, f"torch {torch.__version__}.")


if __name__ == "__main__":
    main()
