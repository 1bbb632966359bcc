"""What supports there are: how large, how many distinct ones, and which are shared by most contexts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltagram.data.imbalance import I64
from deltagram.data.labels import LabelMatrix


@dataclass(frozen=True, kw_only=True, eq=False)
class SupportSummary:
    """`histogram`: contexts with a support of each size (from 0); `distinct` supports; the most `shared` ones.

    A shared one: its rows of the matrix, and how many contexts have it.
    """

    histogram: I64
    distinct: int
    shared: tuple[tuple[tuple[int, ...], int], ...]

    @property
    def bins(self) -> list[dict[str, int]]:
        """Contexts by powers of two of the sizes of their supports: sizes `from`, `to`, and how many `contexts`."""
        edges = [1 << bits for bits in range(len(self.histogram).bit_length())]
        counted = [(low, 2 * low - 1, int(self.histogram[low : 2 * low].sum())) for low in edges]
        return [dict(zip(("from", "to", "contexts"), row, strict=True)) for row in counted if row[2]]

    @property
    def one_word_share(self) -> float:
        """Share of the contexts that one word alone follows."""
        return float(self.histogram[1] / self.histogram.sum())


def summarise(labels: LabelMatrix, *, most: int = 10) -> SupportSummary:
    """Exactly, a size at a time, in memory for the matrix itself a few times over.

    >>> found = summarise(LabelMatrix.of_counts([[3, 1, 1], [1, 0, 0], [0, 1, 2]]))
    >>> found.histogram.tolist(), found.distinct, found.shared[0]
    ([0, 0, 3], 2, ((0, 2), 2))
    """
    p = labels.probabilities.sorted_indices()
    sizes = labels.sizes
    distinct, shared = 0, []
    for size in np.unique(sizes).tolist():
        starts = p.indptr[:-1][sizes == size].astype(np.int64)
        rows = p.indices[starts[:, None] + np.arange(size)].astype(">u4")  # whose bytes are ordered as numbers are
        first, many = _distinct(np.ascontiguousarray(rows))
        distinct += len(many)
        top = np.argsort(-many, kind="stable")[:most]
        shared += [(tuple(rows[first[i]].tolist()), int(many[i])) for i in top]
    shared.sort(key=lambda found: (-found[1], found[0]))
    return SupportSummary(histogram=np.bincount(sizes).astype(np.int64), distinct=distinct, shared=tuple(shared[:most]))


def _distinct(rows: NDArray[np.uint32]) -> tuple[I64, I64]:
    """Where each distinct row stands first, and how often it occurs."""
    keys = rows.view(np.dtype((np.void, rows.shape[1] * 4))).ravel() if rows.shape[1] > 2 else _packed(rows)
    _, first, many = np.unique(keys, return_index=True, return_counts=True)
    return first, many


def _packed(rows: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Rows of one or two numbers as one."""
    found = rows[:, 0].astype(np.uint64)
    return found if rows.shape[1] == 1 else found << np.uint64(32) | rows[:, 1]
