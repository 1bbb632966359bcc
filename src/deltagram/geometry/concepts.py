"""Directions of meaning: singular vectors of the centred supports with their words, orthants, and what must collapse.

A direction k has words on two sides, the signs of `u_k`, and contexts, the signs of `v_k`; larger singular values are
learned earlier (arXiv 2505.08348). Signs along several directions cut words and contexts into orthants.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.factors import Factors
from deltagram.geometry.supportprogram import alike

_ZERO = 1e-9  # of the largest entry of a direction: what is less is on neither side
_MOST = 20  # directions that orthants are made of: a million of them


@dataclass(frozen=True, kw_only=True)
class Direction:
    """One direction: its singular value, and the first words and contexts of each side, farthest out first."""

    size: float
    words_up: tuple[int, ...]
    words_down: tuple[int, ...]
    contexts_up: tuple[int, ...]
    contexts_down: tuple[int, ...]


def directions(factors: Factors, *, first: int = 8, shown: int = 8) -> list[Direction]:
    """The `first` directions with `shown` words and contexts a side."""
    return [_direction(factors, k, shown) for k in range(min(first, len(factors.sizes)))]


def _direction(factors: Factors, k: int, shown: int) -> Direction:
    words, contexts = (_sides(side[:, k], shown) for side in (factors.words, factors.contexts))
    return Direction(
        size=float(factors.sizes[k]), words_up=words[0], words_down=words[1], contexts_up=contexts[0],
        contexts_down=contexts[1],
    )  # fmt: skip


def _sides(entries: F64, shown: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    least = _ZERO * np.abs(entries).max()
    order = np.argsort(-entries, kind="stable")
    up = order[entries[order] > least][:shown]
    down = order[::-1]
    down = down[entries[down] < -least][:shown]
    return tuple(up.tolist()), tuple(down.tolist())


@dataclass(frozen=True, kw_only=True)
class Orthant:
    """Members with these signs (+1 or -1, one a direction), those farthest out first, and how far out they are."""

    signs: tuple[int, ...]
    members: tuple[int, ...]
    reach: tuple[float, ...]


def orthants(vectors: F64, chosen: tuple[int, ...]) -> list[Orthant]:
    """Words or contexts (member, direction) by their signs along the `chosen` directions; the fullest orthant first.

    Members are ranked by the sum of the sizes of their entries. One that is zero along a chosen direction is in none.
    Raises SettingError for a direction that is not there, none, or more than 20.
    """
    if not 1 <= len(chosen) <= _MOST or not all(0 <= k < vectors.shape[1] for k in chosen):
        raise SettingError("directions", f"are {list(chosen)}", expected=f"1 to {_MOST} of 0 to {vectors.shape[1] - 1}")
    entries = vectors[:, list(chosen)]
    inside = (np.abs(entries) > _ZERO * np.abs(entries).max(0)).all(1)
    codes = (entries > 0) @ (2 ** np.arange(len(chosen)))
    reach = np.abs(entries).sum(1)
    found = []
    for code in np.unique(codes[inside]).tolist():
        members = np.flatnonzero(inside & (codes == code))
        members = members[np.argsort(-reach[members], kind="stable")]
        signs = tuple(1 if code >> k & 1 else -1 for k in range(len(chosen)))
        ranked = tuple(members.tolist()), tuple(reach[members].tolist())
        found.append(Orthant(signs=signs, members=ranked[0], reach=ranked[1]))
    return sorted(found, key=lambda orthant: -len(orthant.members))


@dataclass(frozen=True, kw_only=True, eq=False)
class Collapse:
    """Which contexts and words the limit makes one: `contexts` (context) and `words` (word) are groups, from 0."""

    contexts: NDArray[np.int64]
    words: NDArray[np.int64]

    @property
    def context_groups(self) -> list[NDArray[np.intp]]:
        """Groups of two contexts or more, the largest first."""
        return _groups(self.contexts)

    @property
    def word_groups(self) -> list[NDArray[np.intp]]:
        """Groups of two words or more, the largest first."""
        return _groups(self.words)


def collapse(labels: LabelMatrix) -> Collapse:
    """Contexts with equal supports, and words that follow the same contexts.

    >>> collapse(LabelMatrix.of_counts([[1, 2, 0], [1, 1, 0], [0, 0, 1]])).contexts.tolist()
    [0, 0, 1]
    """
    found = labels.supports
    return Collapse(contexts=found.of, words=alike(found.matrix)[0])


def _groups(of: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    order = np.argsort(of, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(of[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: -len(part))
