"""One unit vector a class at the minimum of a `gramprogram.Contrast`, with a certificate; no dense program is formed.

Free vectors of as many dimensions as there are groups (beside the prototypes') make every local minimum of the convex
program in the Gram a global one; fewer are what the caller asks for, and the certificate says whether they sufficed.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, minres

from deltagram.arrays import F64
from deltagram.geometry.gramprogram import Contrast, Point
from deltagram.seeds import key

_FLOOR: Final = 1e-6  # of a sample's loss
_NEWTON: Final = 60  # steps at most
_KRYLOV: Final = 1000  # products with the Hessian a step, at most
_FALLS: Final = 0.9  # a step that shortens the gradient less than to this share meets rounding
_ROUNDING: Final = 1e-14  # of the objective: more than that is a rise
_RANK: Final = 1e-6  # of the largest singular value: vectors are known to the root of rounding
_CLOSE: Final = (1e-6, 1e-8, 1e-10)  # slopes at which Newton steps take over
_CERTAIN: Final = 1e-11  # of the excess: a smaller gap is not looked for
_WARM: Final = 0.2  # temperatures below are reached from there by halves
_NEAR: Final = 0.1  # how far from the prototypes the search starts


@dataclass(frozen=True, kw_only=True)
class Excess:
    """Primal value and a dual bound below it, both less the part of the loss that no vectors change (`offset`).

    Beside prototypes a part below `floor`, 1e-6 a sample, is lost in rounding: the gap is then relative to that.
    """

    primal: float
    dual: float
    offset: float
    floor: float

    @property
    def gap(self) -> float:
        """Relative to the part that vectors change: the value is within this share of the least possible one."""
        return (self.primal - self.dual) / max(self.primal, self.floor, 1e-300)

    @property
    def value(self) -> float:
        """The loss, summed over samples."""
        return self.primal + self.offset


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """The minimum: its point, what shows that it is one, and the dimensions that it takes (with the prototypes)."""

    point: Point
    proof: Excess
    rank: int


def solve(contrast: Contrast, *, extra: int | None = None) -> Solution:
    """The minimum over vectors with `extra` dimensions beside the prototypes' (default: as many as groups)."""
    more = len(contrast.sizes) if extra is None else extra
    width = contrast.prototypes.shape[1] + more
    rows = _Search(contrast=contrast, width=width).start()
    for temperature in _cooling(contrast.temperature):
        search = _Search(contrast=replace(contrast, temperature=temperature), width=width)
        rows = search.minimum(rows)
    point = search.point(rows)
    floor = _FLOOR * search.anchors * search.fixed
    proof = Excess(primal=point.excess, dual=point.bound(), offset=contrast.offset, floor=floor)
    return Solution(point=point, proof=proof, rank=_rank(point))


def _cooling(temperature: float) -> list[float]:
    """Temperatures on the way to one that is low, which is far from everywhere: the softmax is all but a maximum."""
    steps = max(0, math.ceil(math.log2(_WARM / temperature)))
    return [temperature * 2.0**step for step in range(steps, -1, -1)]


def _rank(point: Point) -> int:
    """Dimensions of all class vectors and prototypes together."""
    c = point.contrast
    padded = np.zeros((len(c.prototypes), point.shared.shape[1]))
    padded[:, : c.prototypes.shape[1]] = c.prototypes
    sizes = np.linalg.svd(np.vstack([point.shared * np.sqrt(c.sizes)[:, None], padded]), compute_uv=False)
    within = c.sizes - 1
    return int((sizes > _RANK * sizes[0]).sum() + within[np.abs(point.own) > _RANK].sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    """The excess over products of spheres, a row `(shared, own)` a group; rows are scaled by the weight they carry."""

    contrast: Contrast
    width: int

    @property
    def anchors(self) -> float:
        """Samples with a positive."""
        return float(self.contrast.mass.sum())

    @property
    def fixed(self) -> bool:
        """Whether there are prototypes: the way to them is a difference of terms near 1, which rounding limits."""
        return len(self.contrast.prototypes.T) > 0

    @cached_property
    def free(self) -> F64:
        """1 where a coordinate may differ from 0, (group, width + 1): a class alone has no simplex of its own."""
        mask = np.ones((len(self.contrast.sizes), self.width + 1))
        mask[:, -1] = self.contrast.sizes > 1
        return mask

    @cached_property
    def weight(self) -> F64:
        """About the root of the curvature, (group, 1)."""
        c = self.contrast
        met = c.sizes * c.counts  # a class that is no anchor is still met by others
        found: F64 = np.sqrt(met / met.max())[:, None]
        return found

    def start(self) -> F64:
        """Drawn, or near the prototypes where there are some; (group, width + 1), unit rows."""
        c = self.contrast
        drawn = np.random.Generator(np.random.Philox(key=key(0, "contrast"))).standard_normal(self.free.shape)
        width = c.prototypes.shape[1]
        if width:
            drawn *= _NEAR / np.sqrt(self.width)
            drawn[:, :width] += c.prototypes
        rows = drawn * self.free
        unit: F64 = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def point(self, rows: F64) -> Point:
        """The loss there."""
        return Point(contrast=self.contrast, shared=rows[:, :-1], own=rows[:, -1])

    def slope(self, rows: F64) -> tuple[float, F64, F64]:
        """Value, its derivative along the spheres, and its radial one (group, 1)."""
        point = self.point(rows)
        shared, own = point.gradient()
        whole = np.hstack([shared, own[:, None]]) * self.free
        radial = (whole * rows).sum(1, keepdims=True)
        return point.excess, whole - radial * rows, radial

    def minimum(self, start: F64) -> F64:
        """Newton from a rough neighbourhood; from a close one if the certificate is not there yet."""
        floor = max(_FLOOR * self.anchors * self.fixed, 1e-300)
        rows, scale = start, 1 / max(self.slope(start)[0], floor)
        for close in _CLOSE:
            rows = self._polished(self._near(rows, scale, close=close), scale)
            point = self.point(rows)
            if point.excess - point.bound() <= _CERTAIN * max(point.excess, floor):
                break
        return rows

    def _polished(self, rows: F64, scale: float) -> F64:
        """Newton steps as long as the slope falls and the value does not rise."""
        value, slope, radial = self.slope(rows)
        for _ in range(_NEWTON):
            there = rows + self._newton(rows, slope, radial, scale)
            there /= np.linalg.norm(there, axis=1, keepdims=True)
            lower, next_slope, next_radial = self.slope(there)
            falls = np.linalg.norm(next_slope / self.weight) < _FALLS * np.linalg.norm(slope / self.weight)
            if not falls or lower > value + _ROUNDING * abs(value):
                break
            rows, value, slope, radial = there, lower, next_slope, next_radial
        return rows

    def _near(self, start: F64, scale: float, *, close: float) -> F64:
        """L-BFGS on rows of any length, of which the direction counts: a longer row moves less."""

        def objective(flat: F64) -> tuple[float, F64]:
            given = flat.reshape(start.shape)
            size = np.linalg.norm(given, axis=1, keepdims=True)
            value, slope, _ = self.slope(given / size)
            return scale * value, (scale * slope / size).ravel()

        options = {"maxiter": 3000, "maxfun": 6000, "maxcor": 20, "ftol": 1e-15, "gtol": close}
        found = minimize(objective, (start * self.weight).ravel(), jac=True, method="L-BFGS-B", options=options).x
        rows = np.asarray(found, np.float64).reshape(start.shape)
        unit: F64 = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def _newton(self, rows: F64, slope: F64, radial: F64, scale: float) -> F64:
        """The Newton step along the spheres."""
        point, weight, free = self.point(rows), self.weight, self.free

        def along(moved: F64) -> F64:
            kept: F64 = moved - (moved * rows).sum(1, keepdims=True) * rows
            return kept * free

        def times(flat: F64) -> F64:
            step = along(flat.reshape(rows.shape)) / weight
            shared, own = point.curved(step[:, :-1], step[:, -1])
            whole = np.hstack([shared, own[:, None]]) - radial * step
            out: F64 = along(whole / weight)
            return (scale * out).ravel()

        operator = LinearOperator((rows.size, rows.size), matvec=times, dtype=np.float64)
        solved = minres(operator, -(scale * slope / weight).ravel(), rtol=1e-5, maxiter=_KRYLOV)[0]
        step: F64 = along(np.asarray(solved, np.float64).reshape(rows.shape)) / weight
        return step
