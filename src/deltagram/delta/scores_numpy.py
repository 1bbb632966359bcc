"""Scores of differences by their inputs, and the largest of each row, in NumPy: the twin of `scores_numba`."""

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, F64, U64


def weighted(values: F32, norms: F32, first: int, inner: int, out: F32) -> None:
    """`out[i] = |values[i]| norms[(first + i) div inner mod norms.size]`."""
    index = np.arange(first, first + values.size) // inner % norms.size
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.multiply(np.abs(values), norms[index], out=out)


def select_rows(scores: F32, cols: int, quota: NDArray[np.int64], origin: np.uint64, out: U64) -> int:
    """Positions (plus `origin`) of the `quota[r]` largest magnitudes of each row r; of equals, the first."""
    patterns = (scores.view(np.uint32) & np.uint32(0x7FFFFFFF)).astype(np.int64).reshape(-1, cols)
    at = 0
    for row, keep in enumerate(quota.tolist()):
        chosen = np.sort(np.argsort(-patterns[row], kind="stable")[:keep]).astype(np.uint64)
        out[at : at + keep] = chosen + (origin + np.uint64(row * cols))
        at += keep
    return at


def column_squares(values: F32, total: F64) -> None:
    """Add the squares of whole rows to `total`, one entry a column, row after row (the order decides the last bit)."""
    with np.errstate(over="ignore", invalid="ignore"):
        for row in values.reshape(-1, total.size).astype(np.float64):
            total += row * row
