"""Which entries matter most: exact top-k of a stream of scores, with deterministic ties."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from deltagram.arrays import F32, U64
from deltagram.delta import kernels

Blocks = Callable[[], Iterable[F32]]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The magnitude (as a float32 pattern) of the last entry kept, and how many equal to it are kept."""

    pattern: int
    ties: int


def largest(blocks: Blocks, *, keep: int) -> Threshold:
    """The threshold that keeps exactly `keep` entries of largest magnitude; of equals, the first ones.

    `blocks()` yields the tensor's scores in order and is called twice: two passes of a 65,536-bin histogram
    find the exact value, whatever the tensor's size. Magnitude pruning of deltas, DAREx (arXiv 2410.09344) 3.
    """
    upper = np.zeros(1 << 16, np.uint64)
    for block in blocks():
        kernels.magnitude_histogram(block, upper)
    prefix, above = _bin(upper, keep)
    lower = np.zeros(1 << 16, np.uint64)
    for block in blocks():
        kernels.magnitude_histogram(block, lower, prefix=prefix)
    suffix, above_suffix = _bin(lower, keep - above)
    return Threshold(pattern=prefix << 16 | suffix, ties=keep - above - above_suffix)


def _bin(counts: U64, keep: int) -> tuple[int, int]:
    """The bin that holds the `keep`-th largest entry, and how many lie in higher bins."""
    from_top = np.cumsum(counts[::-1])
    index = int(np.searchsorted(from_top, keep))
    above = int(from_top[index - 1]) if index else 0
    return counts.size - 1 - index, above


def kept(blocks: Blocks, threshold: Threshold) -> Iterator[tuple[U64, F32]]:
    """The kept positions and their scores, block by block."""
    origin, ties = 0, threshold.ties
    for block in blocks():
        positions, used = kernels.select_largest(block, threshold.pattern, ties, origin)
        yield positions, block[(positions - np.uint64(origin)).astype(np.int64)]
        origin += block.size
        ties -= used
