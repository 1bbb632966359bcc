"""Positions of seeded masks, in NumPy: the twin of `positions_numba`."""

import numpy as np

from deltagram import seeds
from deltagram.arrays import U64


def stratified(size: np.uint64, keep: np.uint64, key: np.uint64, first: np.uint64, out: U64) -> None:
    """Fill `out` with the positions of kept entries `first`, `first + 1`, ..."""
    quotient, remainder = size // keep, size % keep
    index = np.arange(int(first), int(first) + out.size + 1, dtype=np.uint64)
    start = index * quotient + index * remainder // keep
    words = seeds.words(int(key), int(first), int(first) + out.size).astype(np.uint64)
    out[:] = start[:-1] + (words * np.diff(start) >> np.uint64(32))


def bernoulli_count(threshold: np.uint64, key: np.uint64, start: np.uint64, stop: np.uint64) -> int:
    """How many words of `start` to `stop - 1` are below `threshold`."""
    return int(np.count_nonzero(seeds.words(int(key), int(start), int(stop)).astype(np.uint64) < threshold))


def bernoulli(threshold: np.uint64, key: np.uint64, start: np.uint64, stop: np.uint64, out: U64) -> None:
    """Fill `out` with the positions whose word is below `threshold`; the last place is spare."""
    kept = np.flatnonzero(seeds.words(int(key), int(start), int(stop)).astype(np.uint64) < threshold)
    out[: kept.size] = kept.astype(np.uint64) + start
