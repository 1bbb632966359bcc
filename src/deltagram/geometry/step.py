"""STEP imbalance, two sizes of classes: the closed forms written out, independent of `predict` and `path`.

m1 majority classes of R n samples, m2 minority classes of n; `D` is the ratio of the majority's to the minority's
class scale (CDT; 1 for plain cross-entropy). Lemmas D.1 to D.3 of arXiv 2303.07608 for m1 = m2, here for any shares.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from deltagram.arrays import F64
from deltagram.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Step:
    """`majority` classes of `ratio * least` samples and `minority` classes of `least`; `scale_ratio` is D."""

    majority: int
    minority: int
    ratio: float
    least: float = 1.0
    scale_ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.majority < 1 or self.minority < 1:
            found = f"{self.majority} majority and {self.minority} minority classes"
            raise SettingError("STEP", found, expected="one or more of each")
        for name in ("ratio", "least", "scale_ratio"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise SettingError("STEP", f"{name} is {getattr(self, name)}", expected="a positive number")

    @property
    def counts(self) -> F64:
        """Samples a class, the majority first."""
        sizes = (self.majority, self.minority)
        return np.repeat([self.ratio * self.least, self.least], sizes).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Squared norms and inner products of a STEP geometry: `maj`, `min` (a class with itself), two of one group, cross.

    `own_maj` and `own_min` are the inner products of a classifier with its own class mean.
    """

    classifier_maj: float
    classifier_min: float
    classifier_maj_maj: float
    classifier_min_min: float
    classifier_cross: float
    mean_maj: float
    mean_min: float
    mean_maj_maj: float
    mean_min_min: float
    mean_cross: float
    own_maj: float
    own_min: float


def closed_form(step: Step) -> Numbers:
    """Lemmas D.1 to D.3 of arXiv 2303.07608 for any share of majority classes; scale as `predict.cross_entropy`."""
    m1, m2, r, d = step.majority, step.minority, math.sqrt(step.ratio), step.scale_ratio
    den = m1 + d * d * m2
    t = math.sqrt((m1 + step.ratio * m2) / den)
    by, to = math.sqrt(step.least), 1 / math.sqrt(step.least)
    return Numbers(
        classifier_maj=by * (r / d * (1 - 1 / m1) + t * d * d * m2 / (m1 * den)),
        classifier_min=by * (1 - 1 / m2 + t * m1 / (m2 * den)),
        classifier_maj_maj=by * (-r / (d * m1) + t * d * d * m2 / (m1 * den)),
        classifier_min_min=by * (-1 / m2 + t * m1 / (m2 * den)),
        classifier_cross=-by * t * d / den,
        mean_maj=to * ((1 - 1 / m1) / (d * r) + m2 / (m1 * den * t)),
        mean_min=to * (1 - 1 / m2 + m1 / (m2 * den * t)),
        mean_maj_maj=to * (-1 / (m1 * d * r) + m2 / (m1 * den * t)),
        mean_min_min=to * (-1 / m2 + m1 / (m2 * den * t)),
        mean_cross=-to / (den * t),
        own_maj=(1 - 1 / den) / d,
        own_min=1 - d * d / den,
    )


def unbounded_ratio(*, majority: int, minority: int) -> dict[str, float]:
    """Cosines of plain cross-entropy as R grows without bound: minority classifiers merge, their means do not.

    With rho the share of minority classes: classifiers of the minority reach cosine 1 (the collapse of Fang et al.,
    PNAS 118, 2021), of the majority `-(1 - rho^1.5) / (m1 - 1 + rho^1.5)`; means of the minority `-1 / (m2 - 1)`,
    of the majority `(-1 + sqrt rho) / (m1 - 1 + sqrt rho)`; minority classifiers turn from their own means (0).
    """
    m1, m2 = majority, minority
    rho = m2 / (m1 + m2)
    return {
        "classifier_min_min": 1.0,
        "classifier_maj_maj": -(1 - rho**1.5) / (m1 - 1 + rho**1.5),
        "mean_min_min": -1 / (m2 - 1) if m2 > 1 else math.nan,
        "mean_maj_maj": (-1 + math.sqrt(rho)) / (m1 - 1 + math.sqrt(rho)),
        "alignment_min": 0.0,
    }


def merging_ratio(*, majority: int, minority: int) -> float:
    """R* at which minority classifiers are orthogonal: beyond it their angles are acute. 7 for equal shares.

    `R* = ((1 - rho)^-2 - (1 - rho)) / rho`, from `closed_form` set to zero.
    """
    rho = minority / (majority + minority)
    return ((1 - rho) ** -2 - (1 - rho)) / rho


@dataclass(frozen=True, kw_only=True)
class RidgeNumbers:
    """`X = x_maj P_maj + x_min P_min + v b^T` of plain cross-entropy at a ridge: everything the geometry needs.

    v is the unit vector that is constant on either group and sums to zero, negative on the majority; b is `b_maj` on
    the majority's columns and `b_min` on the minority's.
    """

    x_maj: float
    x_min: float
    b_maj: float
    b_min: float


def at_ridge(step: Step, ridge: float) -> RidgeNumbers:
    """The whole path of plain cross-entropy under STEP imbalance from the root of one scalar equation.

    At the minimum the gradient is `-ridge` times the polar factor of X; that factor is known but for one angle, which
    gives all probabilities, so all logits, so X; the angle is the one that X has. Where the two groups are not told
    apart (b is zero) what is left of a group follows from its own scalar equation.

    Raises SettingError for two groups of one class each, for class scales, and for a ridge that is not positive.
    """
    if step.scale_ratio != 1 or max(step.majority, step.minority) < 2:
        raise SettingError("STEP", "is outside this formula", expected="two or more classes in a group, no class scale")
    if not (math.isfinite(ridge) and ridge > 0):
        raise SettingError("ridge", f"{ridge:g}", expected="a positive number")
    branch = _Branch(step=step, ridge=ridge)
    angle = branch.angle()
    if angle is None:
        x, b = np.array([_alone(step, ridge, 0), _alone(step, ridge, 1)]), np.zeros(2)
    else:
        _, x, b = branch.parts(angle)
    return RidgeNumbers(x_maj=float(x[0]), x_min=float(x[1]), b_maj=float(b[0]), b_min=float(b[1]))


@dataclass(frozen=True, kw_only=True)
class _Branch:
    """The equations where the two groups are told apart, as functions of the angle of b."""

    step: Step
    ridge: float

    def parts(self, angle: float) -> tuple[F64, F64, F64]:
        """`b / |b|`, x and b, (group): what the angle implies."""
        m = np.array([self.step.majority, self.step.minority])
        s = np.sqrt([self.step.ratio * self.step.least, self.step.least])
        v = np.array([-math.sqrt(m[1] / (m[0] * m.sum())), math.sqrt(m[0] / (m[1] * m.sum()))])
        u = np.array([-math.cos(angle), math.sin(angle)]) / np.sqrt(m)
        beside = self.ridge / s * (np.minimum(1.0, s / self.ridge) / m - v * u)  # another class of the own group
        across = -self.ridge / s * v[::-1] * u  # a class of the other group
        own = 1 - (m - 1) * beside - m[::-1] * across
        with np.errstate(invalid="ignore", divide="ignore"):
            x = np.where(m > 1, s * np.log(own / np.where(m > 1, beside, own)), 0.0)
            b = (s * np.log(own / across) - x * (1 - 1 / m)) / (v - v[::-1])
        return u, x, b

    def mismatch(self, angle: float) -> float:
        """Zero where the implied b has this angle."""
        u, _, b = self.parts(angle)
        return float(b[0] * u[1] - b[1] * u[0])

    def angle(self) -> float | None:
        """The root at which b has a positive length; None if there is none."""
        grid = np.linspace(0, math.pi / 2, 4002)[1:-1]
        values = np.array([self.mismatch(angle) for angle in grid])
        fine = np.isfinite(values[:-1]) & np.isfinite(values[1:])
        for at in np.flatnonzero(fine & (np.sign(values[:-1]) != np.sign(values[1:]))):
            root = float(brentq(self.mismatch, grid[at], grid[at + 1], xtol=1e-15, rtol=1e-15))
            u, _, b = self.parts(root)
            if u @ b > 0:
                return root
        return None


def _alone(step: Step, ridge: float, group: int) -> float:
    """x of a group when all else is zero: `s (1 - p_own + p_beside) = ridge`, or zero from `ridge = s` on."""
    m, others = (step.majority, step.minority)[group], (step.minority, step.majority)[group]
    s = math.sqrt(step.ratio * step.least if group == 0 else step.least)
    if m < 2 or ridge >= s:
        return 0.0

    def excess(x: float) -> float:
        own, beside = math.exp(x * (1 - 1 / m) / s), math.exp(-x / (m * s))
        return s * (1 - (own - beside) / (own + (m - 1) * beside + others)) - ridge

    return float(brentq(excess, 0.0, s * 700.0, xtol=1e-15, rtol=1e-15))
