"""Ridge-regularised cross-entropy at any ridge: the geometry before the limit, with a certificate of optimality.

`min_X sum_y n_y loss_y(X[:, y] / sqrt(n_y)) + ridge ||X||_*`, the convex form of cross-entropy summed over samples plus
`ridge / 2 (||W||^2 + ||H||^2)`; Section 3 of arXiv 2208.05512 poses it, with features free and of dimension k - 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, minres

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.blocks import Groups, Point
from deltagram.geometry.gram import Geometry
from deltagram.geometry.predict import margin_solution
from deltagram.geometry.problem import Problem

_NEWTON = 60  # steps at most
_ROUNDING = 1e-15  # of the objective: more than that is a rise
_KRYLOV = 2000  # products with the Hessian a step, at most
_FALLS = 0.9  # a step that shortens the gradient less than to this share meets rounding: the one before was the last


@dataclass(frozen=True, kw_only=True)
class Optimality:
    """Primal value, a dual bound below it, and the smallest ridge at which everything is zero."""

    primal: float
    dual: float
    zero_from: float

    @property
    def gap(self) -> float:
        """Relative duality gap: the value is within this share of the least possible one."""
        return (self.primal - self.dual) / max(abs(self.primal), 1e-300)


def ridge_path(problem: Problem, ridges: ArrayLike) -> list[tuple[Geometry, Optimality]]:
    """The geometry at each of these ridges, from the largest down, each started from the one before."""
    order = np.argsort(-np.asarray(ridges, np.float64), kind="stable")
    found: dict[int, tuple[Geometry, Optimality]] = {}
    start: tuple[F64, F64, F64] | None = None
    groups = Groups.of(problem)
    for at in order.tolist():
        ridge = float(np.asarray(ridges)[at])
        solved, start = _solve(groups, ridge, start)
        found[at] = _described(problem, groups, ridge, solved)
    return [found[at] for at in range(len(found))]


def finite_ridge(problem: Problem, ridge: float) -> tuple[Geometry, Optimality]:
    """The geometry at one ridge. All of it is zero from `Optimality.zero_from` on: said in the conventions.

    Raises SettingError for a ridge that is not positive.
    """
    return ridge_path(problem, [ridge])[0]


def zero_from(problem: Problem) -> float:
    """The least ridge at which the minimiser is zero: the largest singular value of the gradient there."""
    return _largest(_zero(Groups.of(problem)))


def _zero(groups: Groups) -> Point:
    """The loss where everything is zero."""
    return Point(groups=groups, core=np.zeros_like(groups.root), own=np.zeros_like(groups.sizes))


def _largest(point: Point) -> float:
    """The spectral norm of the gradient."""
    core, own = point.gradient
    return float(max(np.linalg.norm(core, 2), np.abs(own[point.groups.sizes > 1]).max(initial=0.0)))


def _solve(
    groups: Groups, ridge: float, start: tuple[F64, F64, F64] | None
) -> tuple[Point, tuple[F64, F64, F64] | None]:
    if not (np.isfinite(ridge) and ridge > 0):
        raise SettingError("ridge", f"{ridge:g}", expected="a positive number; for the limit of zero, give none")
    zero = _zero(groups)
    if ridge >= _largest(zero):
        return zero, start
    factored = _Factored(groups=groups, ridge=ridge)
    found = factored.minimum(start or factored.guess())
    return factored.point(found), factored.split(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Factored:
    """The problem in `core = A^T C` and `own = s^2`: smooth, and every local minimum is a global one.

    The ridge on A, C and s is the nuclear norm of X at the minimum; gradients and Hessian products are exact.
    """

    groups: Groups
    ridge: float

    def guess(self) -> tuple[F64, F64, F64]:
        """The direction of the limit, scaled to the margins of a balanced problem."""
        core, own = _limit(self.groups)
        mean = float(np.exp(np.log(self.groups.one.counts).mean()))
        size = max(0.3, float(np.log(max(1.0, len(self.groups.member) * np.sqrt(mean) / self.ridge))))
        u, s, v = np.linalg.svd(size * core)
        return np.sqrt(s)[:, None] * u.T, np.sqrt(s)[:, None] * v, np.sqrt(size * own)

    def split(self, flat: F64) -> tuple[F64, F64, F64]:
        """A, C (group, group) and s (group)."""
        g = len(self.groups.sizes)
        return flat[: g * g].reshape(g, g), flat[g * g : 2 * g * g].reshape(g, g), flat[2 * g * g :]

    def point(self, flat: F64) -> Point:
        """The loss there."""
        a, c, s = self.split(flat)
        return Point(groups=self.groups, core=a.T @ c, own=s * s)

    def value(self, flat: F64) -> tuple[float, F64]:
        """Objective over the ridge, and its gradient."""
        a, c, s = self.split(flat)
        point = self.point(flat)
        core, own = (part / self.ridge for part in point.gradient)
        extra = self.groups.sizes - 1
        size = float((a * a).sum() / 2 + (c * c).sum() / 2 + extra @ (s * s))
        grad = (c @ core.T + a, a @ core + c, 2 * extra * s * (own + 1))
        return point.value / self.ridge + size, np.concatenate([part.ravel() for part in grad])

    def curvature(self, flat: F64) -> LinearOperator:
        """The Hessian there."""
        a, c, s = self.split(flat)
        point = self.point(flat)
        core, own = (part / self.ridge for part in point.gradient)
        extra = self.groups.sizes - 1

        def times(step: F64) -> F64:
            da, dc, ds = self.split(step)
            moved, moved_own = (part / self.ridge for part in point.curved(da.T @ c + a.T @ dc, 2 * s * ds))
            out = (
                dc @ core.T + c @ moved.T + da,
                da @ core + a @ moved + dc,
                2 * extra * ds * (own + 1) + 2 * s * moved_own,
            )
            return np.concatenate([part.ravel() for part in out])

        return LinearOperator((flat.size, flat.size), matvec=times, dtype=np.float64)

    def minimum(self, start: tuple[F64, F64, F64]) -> F64:
        """Quasi-Newton to the neighbourhood, then Newton steps as long as the gradient falls."""
        flat = np.concatenate([part.ravel() for part in start])
        options = {"maxiter": 5000, "maxcor": 10, "ftol": 1e-16, "gtol": 1e-9, "maxfun": 10_000}
        at = np.asarray(minimize(self.value, flat, jac=True, method="L-BFGS-B", options=options).x, np.float64)
        value, gradient = self.value(at)
        for _ in range(_NEWTON):
            step = minres(self.curvature(at), -gradient, rtol=1e-4, maxiter=_KRYLOV)[0]
            lower, there = self.value(at + step)
            falls = np.linalg.norm(there) < _FALLS * np.linalg.norm(gradient)
            if not falls or lower > value + _ROUNDING * abs(value):  # a gradient also falls towards the saddle at zero
                break
            at, value, gradient = at + step, lower, there
        return at


def _limit(groups: Groups) -> tuple[F64, F64]:
    """The limit of vanishing ridge, in the coordinates of the groups."""
    one = groups.one
    a = np.sqrt(groups.sizes) / one.class_scale
    q = margin_solution(one).q
    a = a / np.linalg.norm(a)
    return np.diag(q) - np.multiply.outer(a, a * q), q


def _described(
    problem: Problem, groups: Groups, ridge: float, point: Point
) -> tuple[Geometry, Optimality]:  # fmt: skip
    u, s, v = np.linalg.svd(point.core)
    size = float(s.sum() + (groups.sizes - 1) @ point.own)
    primal = point.value + ridge * size
    found = Optimality(
        primal=primal, dual=point.dual(min(1.0, ridge / _largest(point))), zero_from=_largest(_zero(groups))
    )  # fmt: skip
    by_count = 1 / np.sqrt(problem.counts)
    is_zero = not (point.core.any() or point.own.any())
    geometry = Geometry(
        name=f"cross-entropy, ridge {ridge:g}",
        classifiers=groups.spread((u * s) @ u.T, point.own),
        means=groups.spread((v.T * s) @ v, point.own).scaled(by_count, by_count),
        logits=groups.spread(point.core, point.own).scaled(cols=by_count),
        counts=problem.counts,
        conventions={"ridge": f"{ridge:g}", "bias": "none"} | ({"collapsed": "everything is zero"} if is_zero else {}),
    )
    return geometry, found
