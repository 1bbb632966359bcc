"""The supervised contrastive loss of free unit features as a program over one vector a class, and its optimality.

A sample's term is a convex function of the Gram matrix of the features, so it may be averaged over exchanges of samples
inside classes, and without prototypes drawing a class together only lowers it: a minimiser has one vector h_c a class
(in k - 1 dimensions or more, for any counts). Beside prototypes one vector a class is assumed: with few copies samples
of a class may do a little better apart (20 and 2 samples, t = .1, one simplex prototype each: by 3e-8 of the loss, at
Grams .04 away), so that the program is an upper bound, and exact in the limit. With n_c samples and q_c copies of a
fixed prototype w_c a class, b_c = n_c - 1 + q_c:

`min sum_c n_c log( n_c - 1 + sum_{c' != c} n_c' e^{(h_c.h_c' - 1)/t} + sum_c' q_c' e^{(h_c.w_c' - 1)/t} )
+ n_c q_c (1 - h_c.w_c) / (t b_c)`, convex in the products (arXiv 2402.18884 without prototypes). Classes of one count
may be exchanged too, and are taken together (`blocks` says how); with prototypes every class is on its own.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64
from deltagram.geometry.matrix import Matrix

_SHIFTS: Final = np.append(0.0, np.logspace(-18, -2, 65))  # of the largest eigenvalue: which is best is looked for


@dataclass(frozen=True, kw_only=True, eq=False)
class Contrast:
    """Groups of classes alike: `counts` and `sizes` (group), `member` (class), `copies` (group) and `prototypes`.

    `prototypes` (group, feature) are unit vectors and every group one class, or there are none (no columns, copies 0).
    Without `samples` only prototypes are negatives and positives: the limit of many copies, where their ratios count.
    """

    counts: F64
    sizes: F64
    member: NDArray[np.intp]
    copies: F64
    prototypes: F64
    temperature: float
    samples: bool = True

    @classmethod
    def of_counts(cls, counts: F64, *, temperature: float) -> Self:
        """No prototypes: classes of one count together."""
        distinct, member, sizes = np.unique(counts, return_inverse=True, return_counts=True)
        none = np.zeros((len(distinct), 0))
        return cls(
            counts=distinct, sizes=sizes.astype(np.float64), member=member.reshape(-1), copies=none.sum(1),
            prototypes=none, temperature=temperature,
        )  # fmt: skip

    @classmethod
    def of_prototypes(cls, counts: F64, prototypes: F64, copies: F64, *, temperature: float, samples: bool) -> Self:
        """One group a class."""
        return cls(
            counts=counts, sizes=np.ones(len(counts)), member=np.arange(len(counts)), copies=copies,
            prototypes=prototypes, temperature=temperature, samples=samples,
        )  # fmt: skip

    @cached_property
    def positives(self) -> F64:
        """b_g, (group): what a sample is drawn to. A class of one sample without a prototype has none: no anchor."""
        return (self.counts - 1) * self.samples + self.copies

    @cached_property
    def mass(self) -> F64:
        """Anchors of a group, (group): its samples, or 0 where a sample has no positive."""
        anchors = self.sizes * self.counts
        return np.where(self.positives > 0, anchors, 0.0)

    @cached_property
    def negatives(self) -> F64:
        """Samples of the other classes that a sample of g meets in h, (group, group)."""
        others = self.sizes - np.eye(len(self.sizes))
        return others * self.counts * self.samples

    @property
    def offset(self) -> float:
        """What does not depend on the vectors: `sum_c n_c log b_c`."""
        there = self.mass > 0
        return float(self.mass[there] @ np.log(self.positives[there]))

    def spread(self, vectors: F64, own: F64) -> Matrix:
        """The Gram of all classes from group vectors and what each class has of its own, (class, class)."""
        unit = np.zeros((len(self.member), len(self.sizes)))
        unit[np.arange(len(self.member)), self.member] = 1.0
        within = np.where(self.sizes > 1, own**2, 0.0) / np.maximum(self.sizes - 1, 1)
        left = unit @ (vectors @ vectors.T - np.diag(within))
        return Matrix(diagonal=(within * self.sizes)[self.member], left=left, right=unit)


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """The loss at group vectors `shared` (group, feature) and `own` (group); `|shared_g|^2 + own_g^2 = 1`.

    A class of group g is `shared_g` and, at right angles to all of them, a corner of its group's simplex of radius
    `own_g`. Features have the prototypes' coordinates first.
    """

    contrast: Contrast
    shared: F64
    own: F64

    @cached_property
    def cosines(self) -> F64:
        """Between a class of g and another class of h, (group, group)."""
        found: F64 = self.shared @ self.shared.T
        size = self.contrast.sizes
        found[np.diag_indices(len(size))] -= np.where(size > 1, self.own**2, 0.0) / np.maximum(size - 1, 1)
        return found

    @cached_property
    def to_prototypes(self) -> F64:
        """h_g . w_h, (group, group or none)."""
        w = self.contrast.prototypes
        found: F64 = self.shared[:, : w.shape[1]] @ w.T
        return found if w.shape[1] else found[:, :0]

    @cached_property
    def _terms(self) -> tuple[F64, F64, F64, F64]:
        """Weights of classes and of prototypes in the sum, over b; the sum over b, and its logarithm (group)."""
        c = self.contrast
        over = 1 / np.where(c.positives > 0, c.positives, 1.0)[:, None]
        others = over * c.negatives * np.exp((self.cosines - 1) / c.temperature)
        if not c.prototypes.shape[1]:
            rise = others.sum(1)
            return others, self.to_prototypes, 1 + rise, np.log1p(rise)
        away = (self.to_prototypes - 1) / c.temperature
        held = over * c.copies * np.exp(away)
        rise = held.sum(1) - np.diag(held) + over[:, 0] * c.copies * np.expm1(np.diag(away))
        rise = others.sum(1) + rise
        total = others.sum(1) + held.sum(1) + over[:, 0] * (c.counts - 1) * c.samples
        total = np.where(c.positives > 0, total, 1.0)
        near = rise > -0.5  # beyond, the prototype is far, and nothing cancels in the sum
        return others, held, total, np.where(near, np.log1p(np.where(near, rise, 0.0)), np.log(total))

    @cached_property
    def excess(self) -> float:
        """The loss less `Contrast.offset`: what other classes add, and the way to the prototypes; at least 0."""
        c, loss = self.contrast, self._terms[3]
        if c.prototypes.shape[1]:
            loss = loss + c.copies * (1 - np.diag(self.to_prototypes)) / (c.temperature * c.positives)
        return float(c.mass @ loss)

    @cached_property
    def shares(self) -> tuple[F64, F64]:
        """The softmax of an anchor of g over classes of h and over prototypes."""
        others, held, total, _ = self._terms
        return others / total[:, None], held / total[:, None]

    @cached_property
    def slopes(self) -> tuple[F64, F64]:
        """Derivatives by the cosines between groups (of anchors in rows), and by those to prototypes."""
        c = self.contrast
        by = (c.mass / c.temperature)[:, None]
        others, held = self.shares
        if c.prototypes.shape[1]:
            held = held - np.diag(c.copies / c.positives)
        return by * others, by * held

    def gradient(self) -> tuple[F64, F64]:
        """By `shared` and `own`."""
        return self._pulled(*self.slopes, self.shared, self.own)

    def _pulled(self, others: F64, held: F64, shared: F64, own: F64) -> tuple[F64, F64]:
        c = self.contrast
        moved = (others + others.T) @ shared
        width = c.prototypes.shape[1]
        if width:
            moved[:, :width] += held @ c.prototypes
        return moved, np.where(c.sizes > 1, -2 * np.diag(others) * own / np.maximum(c.sizes - 1, 1), 0.0)

    def curved(self, shared: F64, own: F64) -> tuple[F64, F64]:
        """The Hessian times a direction."""
        c = self.contrast
        step = shared @ self.shared.T
        step = step + step.T
        step[np.diag_indices(len(own))] -= 2 * np.where(c.sizes > 1, self.own * own, 0.0) / np.maximum(c.sizes - 1, 1)
        others, held = self.shares
        towards = shared[:, : c.prototypes.shape[1]] @ c.prototypes.T if c.prototypes.shape[1] else held
        mean = (others * step).sum(1) + (held * towards).sum(1)
        by = (c.mass / c.temperature**2)[:, None]
        second = by * others * (step - mean[:, None]), by * held * (towards - mean[:, None])
        one = self._pulled(*second, self.shared, self.own)
        moved = self.slopes[0] + self.slopes[0].T
        two = moved @ shared, np.where(c.sizes > 1, -np.diag(moved) * own / np.maximum(c.sizes - 1, 1), 0.0)
        return one[0] + two[0], one[1] + two[1]

    @cached_property
    def multipliers(self) -> F64:
        """y_g of `|h_c| = 1`, (group): half the radial derivative, a class."""
        shared, own = self.gradient()
        found: F64 = ((shared * self.shared).sum(1) + own * self.own) / (2 * self.contrast.sizes)
        return found

    def bound(self) -> float:
        """A value below every excess, whatever the dimension.

        The loss is above its tangent at these products; the least of the tangent over unit vectors is at least
        `sum y - |..|^2` for every diagonal y that leaves `A - diag(y)` positive, A the derivative by the Gram: y is
        the multipliers less a shift, the best of a few.
        """
        c = self.contrast
        others, held = self.slopes
        root = np.sqrt(np.multiply.outer(c.sizes, c.sizes))
        core = (others + others.T) / (2 * root) - np.diag(self.multipliers)
        alone = -np.diag(others) / (c.sizes * np.maximum(c.sizes - 1, 1)) - self.multipliers
        least = float(alone[c.sizes > 1].min(initial=np.inf))
        sizes, axes = np.linalg.eigh(core)
        linear, pulls = 0.0, np.zeros_like(sizes)
        if c.prototypes.shape[1]:
            linear = float((held * self.to_prototypes).sum())
            pulls = ((axes.T @ (held @ c.prototypes)) ** 2).sum(1)
        start = max(0.0, -min(least, float(sizes[0])))
        wide = max(float(np.abs(sizes).max()), 1e-300)
        best = -np.inf
        for more in _SHIFTS:
            shift = start + more * wide
            room = sizes + shift
            if np.any((room <= 0) & (pulls > 0)):
                continue
            cost = float((pulls[room > 0] / room[room > 0]).sum()) / 4
            best = max(best, self.excess - linear / 2 - len(c.member) * shift - cost)
        return float(best)
