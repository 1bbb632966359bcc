"""The ridge problem with classes that are alike taken together: from k x k unknowns to groups x groups.

Classes with the same count and parameters may be exchanged, and the problem is convex: a minimiser exists that no
exchange changes. On groups of m_g classes, with `u_g` the unit vector constant on group g and `P_g` the projection on
group g off `u_g`, it is `X = sum_g x_g P_g + sum_gh K_gh u_g u_h^T`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from scipy.special import logsumexp, xlogy

from deltagram.arrays import F64
from deltagram.geometry.matrix import Matrix
from deltagram.geometry.problem import Problem


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """One row of `one` a group (a Problem of as many classes as groups); `sizes` (group), `member` (class)."""

    one: Problem
    sizes: F64
    member: np.ndarray

    @classmethod
    def of(cls, problem: Problem) -> Self:
        """Classes that agree in everything, together."""
        fields = ("counts", "class_scale", "label_scale", "weight", "offset")
        rows = np.stack([getattr(problem, name) for name in fields], 1)
        unique, member, sizes = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
        one = Problem(**dict(zip(fields, unique.T, strict=True)))
        return cls(one=one, sizes=sizes.astype(np.float64), member=member.reshape(-1))

    @cached_property
    def mass(self) -> F64:
        """`weight sqrt(n) label_scale`, (group): what an entry of the gradient is a multiple of, by its column."""
        return self.one.weight * np.sqrt(self.one.counts) * self.one.label_scale

    @cached_property
    def root(self) -> F64:
        """`sqrt(m_g m_h)`, (group, group)."""
        return np.sqrt(np.multiply.outer(self.sizes, self.sizes))

    def spread(self, core: F64, own: F64) -> Matrix:
        """`sum_g own_g P_g + sum_gh core_gh u_g u_h^T` on all classes: O(k groups) memory."""
        unit = np.zeros((len(self.member), len(self.sizes)))
        unit[np.arange(len(self.member)), self.member] = 1 / np.sqrt(self.sizes[self.member])
        return Matrix(diagonal=own[self.member], left=unit @ (core - np.diag(own)), right=unit)


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """The loss at `X = (core, own)`: value, probabilities, gradient and curvature.

    `other[g, h]` is the probability that a sample of a class of group h gives one class of group g (of its own group:
    each of the other classes), `true` (group) that of its own class.
    """

    groups: Groups
    core: F64
    own: F64

    @cached_property
    def _logits(self) -> tuple[F64, F64]:
        g = self.groups
        p = g.one
        entries = self.core / g.root - np.diag(self.own / g.sizes)
        scaled = p.label_scale / np.sqrt(p.counts) * p.class_scale[:, None] * entries + p.offset[:, None]
        true = p.label_scale / np.sqrt(p.counts) * p.class_scale * (np.diag(entries) + self.own) + p.offset
        return scaled, true

    @cached_property
    def _log(self) -> tuple[F64, F64]:
        """Logarithms of `other` and `true`."""
        scaled, true = self._logits
        several = np.log(np.maximum(self.many, 1e-300))
        total = np.logaddexp(logsumexp(scaled + np.where(self.many > 0, several, -np.inf), axis=0), true)
        return scaled - total, true - total

    @cached_property
    def many(self) -> F64:
        """How many classes `other[g, h]` stands for."""
        return self.groups.sizes[:, None] - np.eye(len(self.groups.sizes))

    @cached_property
    def other(self) -> F64:
        """Probabilities of one wrong class, (group, group of the sample)."""
        found: F64 = np.exp(self._log[0])
        return found

    @cached_property
    def true(self) -> F64:
        """Probabilities of the right class, (group)."""
        found: F64 = np.exp(self._log[1])
        return found

    @cached_property
    def wrong(self) -> F64:
        """One minus `true`, as a sum of probabilities: no cancellation."""
        found: F64 = (self.many * self.other).sum(0)
        return found

    @property
    def value(self) -> float:
        """`sum_y n_y loss_y`."""
        g, wrong = self.groups, self.wrong
        loss = np.where(wrong < 0.5, -np.log1p(-np.minimum(wrong, 0.5)), -self._log[1])
        return float((g.sizes * g.one.counts * g.one.weight) @ loss)

    @cached_property
    def gradient(self) -> tuple[F64, F64]:
        """In the coordinates of the group vectors, (group, group), and on each `P_g`, (group)."""
        g = self.groups
        by = g.one.class_scale[:, None] * g.mass
        other = self.other
        core = by * g.root * other
        at = np.diag_indices(len(g.sizes))
        core[at] = np.diag(by) * ((g.sizes - 1) * np.diag(other) - self.wrong)
        return core, -np.diag(by) * (self.wrong + np.diag(other))

    def curved(self, core: F64, own: F64) -> tuple[F64, F64]:
        """The Hessian times a direction, in the same coordinates; `own` in units of a coordinate (times m - 1)."""
        g = self.groups
        moved = Point(groups=g, core=core, own=own)
        steps, true = moved._logits
        steps, true = steps - g.one.offset[:, None], true - g.one.offset
        other = self.other
        mean = (self.many * other * steps).sum(0) + self.true * true
        d_other, d_true = other * (steps - mean), self.true * (true - mean)
        by = g.one.class_scale[:, None] * g.mass
        out = by * g.root * d_other
        at = np.diag_indices(len(g.sizes))
        out[at] = np.diag(by) * ((g.sizes - 1) * np.diag(d_other) + d_true)
        return out, (g.sizes - 1) * np.diag(by) * (d_true - np.diag(d_other))

    def dual(self, shrink: float) -> float:
        """The dual value at the probabilities drawn towards the labels: `e_y + shrink (p - e_y)`."""
        g = self.groups
        other, wrong = shrink * self.other, shrink * self.wrong
        own = np.where(wrong < 0.5, -(1 - wrong) * np.log1p(-np.minimum(wrong, 0.5)), -xlogy(1 - wrong, 1 - wrong))
        entropy = own - (self.many * xlogy(other, other)).sum(0)
        tilt = (self.many * other * g.one.offset[:, None]).sum(0) - wrong * g.one.offset
        return float((g.sizes * g.one.counts * g.one.weight) @ (entropy + tilt))
