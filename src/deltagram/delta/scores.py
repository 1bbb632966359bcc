"""Which entries matter most: exact top-k of a stream of scores, with deterministic ties."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, F64, U64
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


def kept(blocks: Iterable[tuple[F32, F32]], threshold: Threshold) -> Iterator[tuple[U64, F32]]:
    """The kept positions and their values, from blocks of scores and values."""
    origin, ties = 0, threshold.ties
    for scored, values in blocks:
        positions, used = kernels.select_largest(scored, threshold.pattern, ties, origin)
        yield positions, values[(positions - np.uint64(origin)).astype(np.int64)]
        origin += values.size
        ties -= used


@dataclass(frozen=True, kw_only=True)
class InputNorms:
    """How large each input of a linear layer is on calibration text: `values` float32, finite, not negative.

    The root mean square over tokens is as good as the norm ||x_j||: scores are compared within a tensor only.
    `transposed`: the weight is stored (input, output), as the `Conv1D` of GPT-2 does, not (output, input).
    """

    values: F32
    transposed: bool = False

    def scores(self, differences: F32, *, first: int, cols: int) -> F32:
        """WANDA's |delta_ij| ||x_j|| of entries `first`, `first + 1`, ... of a matrix of `cols` columns.

        Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (ICLR 2024), on
        differences as DAREx (arXiv 2410.09344) 3.3 does.
        """
        return kernels.weighted(differences, self.values, first=first, inner=cols if self.transposed else 1)


def quotas(keep: int, rows: int, *, first: int, last: int) -> NDArray[np.int64]:
    """How many entries rows `first` to `last - 1` keep of `keep` in all: the same, up to one.

    Row i keeps floor((i + 1) keep / rows) - floor(i keep / rows).

    >>> quotas(7, 3, first=0, last=3).tolist()
    [2, 2, 3]
    """
    edges = np.array([row * keep // rows for row in range(first, last + 1)], np.int64)
    return edges[1:] - edges[:-1]


def largest_columns(squares: F64, norms: F32 | None, *, count: int) -> NDArray[np.uint32]:
    """The `count` columns with the largest ||delta_:j|| ||x_j||, ascending; of equals, the first.

    `squares` holds ||delta_:j||^2; without norms all inputs count alike.
    """
    scores = np.sqrt(squares) * (1.0 if norms is None else norms.astype(np.float64))
    return np.sort(np.argsort(-scores, kind="stable")[:count]).astype(np.uint32)
