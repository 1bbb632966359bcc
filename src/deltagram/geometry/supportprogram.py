"""The margin program of next tokens, with equal supports and equal words merged: what is in it, and what bounds it.

`min ||L||_*` where each column of L is constant on its support and at least 1 below that off it (arXiv 2408.15417).
It has a solution in which contexts of one support are alike, and words that follow the same contexts: with n contexts a
support and r words a group it is the same program in `X = diag(sqrt r) L diag(sqrt n)`, a row a group and a column a
support. Contexts that any word can follow ask for nothing; their columns are zero.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix, same_places
from deltagram.errors import SettingError

_MOST = 6_000_000  # entries of X: beyond, a step takes longer than ten seconds
_PASSES = 100  # of the root of a column: each passes a kink at least, and a few suffice
_ROUNDING = 4e-16


@dataclass(frozen=True, kw_only=True, eq=False)
class SupportProgram:
    """Which group of words can follow which support, and how many words and contexts those stand for.

    `mask` (group, support) is true on supports; `words` (group) and `contexts` (support) are counts. `word_of` (word)
    is the group of each word, `context_of` (context) the support of each context: -1 for those with full support.
    """

    mask: NDArray[np.bool_]
    words: F64
    contexts: F64
    word_of: NDArray[np.int64]
    context_of: NDArray[np.int64]

    @classmethod
    def of(cls, labels: LabelMatrix) -> Self:
        """The program of these labels.

        Raises SettingError where all contexts have one support or a full one, which leaves nothing to tell apart, and
        for more than six million entries.
        """
        found, words = labels.supports, labels.shape[0]
        asks = np.flatnonzero(found.sizes < words)
        if len(asks) < 2:
            told = "full" if not len(asks) else f"full, or the same {found.sizes[asks[0]]} words"
            raise SettingError(
                "supports", f"of all {labels.shape[1]} contexts are {told}", expected="two different ones or more",
                fix="a threshold on counts leaves fewer words in them; longer contexts have more of them",
            )  # fmt: skip
        word_of, sizes, rows = alike(found.matrix[:, asks])
        if len(rows) * len(asks) > _MOST:
            raise SettingError(
                "supports", f"{len(rows):,} different words x {len(asks):,} different supports",
                expected=f"at most {_MOST:,} entries",
                fix="take the proxy with its largest directions (predict --proxy --top 32, factors.centred_factors)",
            )  # fmt: skip
        renamed = np.full(len(found.sizes), -1)
        renamed[asks] = np.arange(len(asks))
        return cls(
            mask=found.matrix[:, asks].tocsr()[rows].toarray() > 0, words=sizes,
            contexts=found.multiplicity[asks].astype(np.float64), word_of=word_of, context_of=renamed[found.of],
        )  # fmt: skip

    @cached_property
    def by_word(self) -> F64:
        """sqrt r, (group, 1)."""
        found: F64 = np.sqrt(self.words)[:, None]
        return found

    @cached_property
    def by_context(self) -> F64:
        """sqrt n, (support): the margin that X has to keep."""
        found: F64 = np.sqrt(self.contexts)
        return found

    @cached_property
    def mass(self) -> F64:
        """Words in each support, (support)."""
        found: F64 = self.words @ self.mask
        return found

    def proxy(self) -> F64:
        """X of the centred supports, whose margins are all 1."""
        found: F64 = (self.mask - self.mass / self.words.sum()) * self.by_word * self.by_context
        return found

    def project(self, x: F64, level: F64 | None = None) -> tuple[F64, F64]:
        """The nearest X that keeps the margins, and the level of each column on its support (where to start from).

        A level a solves `k (a - mean on the support) = sum off it of (y + margin - a)_+`, in units of sqrt n: Newton's
        steps from below never pass it, and from above they fall below in one.
        """
        y = x / self.by_word
        mean = (self.words @ np.where(self.mask, y, 0.0)) / self.mass
        need = self.by_context
        reach = np.where(self.mask, -np.inf, y + need)
        at = mean if level is None else np.maximum(level, mean)
        for _ in range(_PASSES):
            active = reach > at
            share = self.mass + self.words @ active
            after = (self.mass * mean + self.words @ np.where(active, reach, 0.0)) / share
            moved = np.abs(after - at).max()
            at = after
            if moved <= _ROUNDING * np.abs(at).max():
                break
        return np.where(self.mask, at, np.minimum(y, at - need)) * self.by_word, at

    def centred(self, x: F64) -> F64:
        """X less the mean logit of each column: margins stay, the norm does not rise."""
        root = self.by_word / np.sqrt(self.words.sum())
        found: F64 = x - root * (root.T @ x)
        return found

    def dual(self, pull: F64) -> tuple[float, F64]:
        """A lower bound of the least norm from any matrix (group, support), and the feasible point it was made of.

        The dual asks for `||G||_op <= 1`, for zero column sums under sqrt r, and for nothing positive off supports.
        """
        kept = np.where(self.mask, pull, np.minimum(pull, 0.0))
        off = (self.by_word.T @ kept).ravel() / self.mass
        kept = kept - np.where(self.mask, self.by_word * off, 0.0)
        point: F64 = kept / max(largest(kept), 1e-300)
        return float(((self.words**0.5) @ np.where(self.mask, point, 0.0)) @ self.by_context), point

    def logits(self, x: F64) -> F64:
        """L (word, context) of X, with all contexts and words."""
        found: F64 = np.zeros((len(self.word_of), len(self.context_of)))
        there = np.flatnonzero(self.context_of >= 0)
        small = x / self.by_word / self.by_context
        found[:, there] = small[self.word_of][:, self.context_of[there]]
        return found

    def vectors(self, left: F64, right: F64) -> tuple[F64, F64]:
        """Vectors of all words and contexts, (word, r) and (context, r), of those (group, r) and (support, r) of X."""
        padded = np.vstack([right / self.by_context[:, None], np.zeros((1, right.shape[1]))])
        return (left / self.by_word)[self.word_of], padded[self.context_of]


def alike(matrix: sparse.csc_array) -> tuple[NDArray[np.int64], F64, NDArray[np.int64]]:
    """Words with equal rows: the group of each, the sizes of groups, and the first word of each."""
    of, first = same_places(sparse.csr_array(matrix))
    return of, np.bincount(of).astype(np.float64), first


def gram_of(matrix: F64) -> F64:
    """The smaller of the two Gram matrices."""
    found: F64 = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return found


def largest(matrix: F64) -> float:
    """The spectral norm."""
    return float(np.sqrt(max(np.linalg.eigvalsh(gram_of(matrix))[-1], 0.0)))
