"""Which texts go together: batches of like length, so that little is computed on padding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deltagram.seeds import key, words

I64 = NDArray[np.int64]

WINDOW = 32


def by_length(lengths: Sequence[int], *, size: int) -> list[I64]:
    """All samples, shortest first, in batches of at most `size` indices.

    >>> [batch.tolist() for batch in by_length([9, 2, 5], size=2)]
    [[1, 2], [0]]
    """
    order = np.argsort(np.asarray(lengths, np.int64), kind="stable").astype(np.int64)
    return [order[start : start + size] for start in range(0, len(order), size)]


def shuffled(lengths: Sequence[int], *, size: int, epochs: int, seed: int, first: int = 0) -> list[I64]:
    """All samples once an epoch, in random batches of at most `size` indices and of like length.

    In each epoch the samples are shuffled and cut into windows of `WINDOW` batches; each window is sorted by
    length and cut into batches, and the batches are shuffled. A function of its arguments alone; epochs are numbered
    from `first` on.
    """
    length = np.asarray(lengths, np.int64)
    batches: list[I64] = []
    for epoch in range(first, first + epochs):
        order = _permutation(len(length), key=key(seed, f"samples/{epoch}"))
        cut: list[I64] = []
        for start in range(0, len(order), WINDOW * size):
            window = order[start : start + WINDOW * size]
            cut += [window[batch] for batch in by_length(length[window].tolist(), size=size)]
        batches += [cut[i] for i in _permutation(len(cut), key=key(seed, f"batches/{epoch}"))]
    return batches


def _permutation(count: int, *, key: int) -> I64:
    return np.argsort(words(key, 0, count), kind="stable").astype(np.int64)
