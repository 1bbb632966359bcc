"""Made-up supports, and labels changed in one respect: probabilities on the same supports, or supports elsewhere."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.seeds import key

FANO: Final = ((0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5))
FOUR: Final = ((3,), (0, 1), (0, 2))  # the smallest supports that the centred ones do not solve


def drawn(name: str, seed: int) -> np.random.Generator:
    """A generator of its own for each name and seed."""
    return np.random.Generator(np.random.Philox(key=key(seed, name)))


def of_supports(supports: tuple[tuple[int, ...], ...], *, words: int, seed: int = 0, most: int = 9) -> LabelMatrix:
    """Labels of these supports: counts from 1 to `most`, drawn."""
    rng, counts = drawn("counts on supports", seed), np.zeros((words, len(supports)), np.int64)
    for j, support in enumerate(supports):
        counts[list(support), j] = rng.integers(1, most + 1, len(support))
    return LabelMatrix.of_counts(counts)


def subsets(words: int, size: int) -> tuple[tuple[int, ...], ...]:
    """All supports of one size."""
    return tuple(combinations(range(words), size))


def by_hand(*, words: int = 30, contexts: int = 16, size: int = 3, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Different supports of one size that overlap as in hand-written sentences: words of rank r drawn as 1 / r."""
    rng, share = drawn("supports by hand", seed), 1 / np.arange(1, words + 1)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < contexts:
        picked = rng.choice(words, size, replace=False, p=share / share.sum())
        found[tuple(sorted(picked.tolist()))] = None
    return tuple(found)


def made_up() -> Mapping[str, LabelMatrix]:
    """Supports of which it is known whether their centred form solves the margin program, and some where it is not."""
    return {
        "30 words, 16 contexts": of_supports(by_hand(), words=30).occurring()[0],
        "all pairs of 6 words": of_supports(subsets(6, 2), words=6),
        "Fano plane": of_supports(FANO, words=7),
        "4 words, counter-example": of_supports(FOUR, words=4),
    }


def shuffled(labels: LabelMatrix, seed: int) -> LabelMatrix:
    """The probabilities of each context dealt anew to the words of its support."""
    return _redealt(labels, drawn("shuffled probabilities", seed).random(labels.probabilities.nnz))


def _redealt(labels: LabelMatrix, order: F64) -> LabelMatrix:
    p = labels.probabilities
    of = np.repeat(np.arange(p.shape[1]), np.diff(p.indptr))
    data = p.data[np.lexsort((order, of))]
    return replace(labels, probabilities=sparse.csc_array((data, p.indices, p.indptr), shape=p.shape), samples=0)


def elsewhere(labels: LabelMatrix, seed: int) -> LabelMatrix:
    """The same labels, dealt anew to the contexts: other supports, as many of each."""
    order: NDArray[np.intp] = drawn("labels elsewhere", seed).permutation(labels.shape[1])
    p = sparse.csc_array(labels.probabilities[:, order])
    return replace(labels, probabilities=p, samples=0)


def smoothed(labels: LabelMatrix, share: float) -> LabelMatrix:
    """With a share of all probability spread over all words, so that every support is full."""
    p = (1 - share) * labels.probabilities.toarray() + share / labels.shape[0]
    return replace(labels, probabilities=sparse.csc_array(p), samples=0)
