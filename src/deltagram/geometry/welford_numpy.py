"""The updates of `welford_numba` in NumPy, a sample at a time: the fallback, and what the tests hold the loops against.

Sums are taken in another order here, so the last bits may differ.
"""

import numpy as np

from deltagram.arrays import F64
from deltagram.geometry.samples import I64


def absorb(features: F64, labels: I64, counts: I64, means: F64, traces: F64) -> None:
    """Add samples to counts, means and traces in place; all arrays flat, features and means row after row."""
    absorb_rows(features, labels, counts, means, traces, np.empty(features.size))


def absorb_rows(features: F64, labels: I64, counts: I64, means: F64, traces: F64, rows: F64) -> None:
    """As `absorb`; fills `rows`, one a sample, so that the scatter of a class grows by the sum of their squares."""
    width = means.size // counts.size
    mean, x, row = means.reshape(-1, width), features.reshape(-1, width), rows.reshape(-1, width)
    for sample, label in enumerate(labels):
        counts[label] += 1
        off = x[sample].astype(np.float64) - mean[label]
        mean[label] += off / counts[label]
        row[sample] = off * np.sqrt(1 - 1 / counts[label])
        traces[label] += off @ off * (1 - 1 / counts[label])
