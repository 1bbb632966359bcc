"""Hyperspherical separation: k unit vectors in d dimensions whose largest cosine is as small as it can be made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import betainc

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.designs import simplex
from deltagram.geometry.frames import etf
from deltagram.seeds import key

_STARTS: Final = 8
_MANY: Final = 100  # classes, from which on a start takes seconds
_SHARPER: Final = (10.0, 100.0, 1e3, 1e4)  # the log-sum-exp of this times cosines, one after the other


@dataclass(frozen=True, kw_only=True, eq=False)
class Separated:
    """Unit vectors (class, feature), their largest cosine, and cosines below which none can have it, by name.

    `exact` says that no vectors do better: a closed form that reaches a bound.
    """

    vectors: F64
    max_cosine: float
    bounds: Mapping[str, float]
    exact: bool

    @property
    def bound(self) -> float:
        """The best of the bounds."""
        return max(self.bounds.values())


def separation(classes: int, dim: int, *, seed: int = 0, starts: int | None = None) -> Separated:
    """Vectors for any number of classes in any dimension from 2 on, the best of `starts` drawn from `seed`.

    `dim >= k - 1` is the simplex, `k <= 2 dim` are k - dim simplices at right angles (no more than dim + 1 vectors are
    at obtuse angles to each other), which balance to zero: both are the best there are. Beyond, `log sum exp(b cos)`
    over pairs is minimised for b up to 10,000 (for one b the targets of TSC, CVPR 2022): a local optimum, beside
    bounds. Takes k^2 memory; 8 starts up to 100 classes, fewer beyond, one above 400.

    Raises SettingError for fewer than two classes, dimensions or starts than these.
    """
    etf(classes)
    if dim < 2 and classes > 2:
        raise SettingError("dim", f"{dim} dimensions for {classes} classes", expected="2 or more")
    many = max(1, min(_STARTS, _STARTS * _MANY // classes)) if starts is None else starts
    if many < 1:
        raise SettingError("starts", str(many), expected="one or more")
    known = bounds(classes, dim)
    if dim >= classes - 1:
        vectors = simplex(classes, dim=dim, seed=seed)
        return Separated(vectors=vectors, max_cosine=-1 / (classes - 1), bounds=known, exact=True)
    if classes <= 2 * dim:
        parts = _simplices(classes, dim) @ _turn(dim, seed)
        return Separated(vectors=parts, max_cosine=0.0, bounds=known, exact=True)
    if dim == 2:
        angle = 2 * np.pi * np.arange(classes) / classes
        circle = np.stack([np.cos(angle), np.sin(angle)], 1)
        return Separated(vectors=circle @ _turn(2, seed), max_cosine=known["circle"], bounds=known, exact=True)
    found = [_spread(classes, dim, seed=seed, start=start) for start in range(many)]
    best = min(found, key=largest)
    return Separated(vectors=best, max_cosine=largest(best), bounds=known, exact=False)


def largest(vectors: F64) -> float:
    """The largest cosine between two of some unit vectors."""
    return float((vectors @ vectors.T - 3 * np.eye(len(vectors))).max())


def bounds(classes: int, dim: int) -> dict[str, float]:
    """Cosines that the largest one is at least, by the name of the argument.

    "simplex": -1/(k-1) (Rankin 1955). "orthoplex": 0 where k > dim + 1 (Rankin). "Levenshtein": where k > 2 dim, as
    far as the bound of degree three reaches. "circle": dim = 2. "caps": half-angle caps around the vectors do not
    overlap. Welch's bound is of absolute cosines, which are not what keeps classes apart.
    """
    found = {"simplex": -1 / (classes - 1)}
    if classes > dim + 1:
        found["orthoplex"] = 0.0
    if dim == 2:
        found["circle"] = float(np.cos(2 * np.pi / classes))
    if classes > 2 * dim and dim > 2:
        end = (np.sqrt(dim + 3) - 1) / (dim + 2)
        if classes <= _levenshtein(dim, end):
            found["Levenshtein"] = float(brentq(lambda s: _levenshtein(dim, s) - classes, 0.0, end))
        else:
            found["Levenshtein"] = float(end)
        found["caps"] = _caps(classes, dim)
    return found


def _levenshtein(dim: int, s: float) -> float:
    """Most vectors with cosines up to s: the third of Levenshtein's bounds."""
    return float(dim * (1 - s) * (2 + (dim + 1) * s) / (1 - dim * s**2))


def _caps(classes: int, dim: int) -> float:
    """The cosine of twice the radius of caps that cover the sphere once."""

    def over(radius: float) -> float:
        return float(betainc((dim - 1) / 2, 0.5, np.sin(radius) ** 2)) / 2 - 1 / classes

    return float(np.cos(2 * brentq(over, 1e-9, np.pi / 2)))


def _simplices(classes: int, dim: int) -> F64:
    """As many simplices at right angles as leave each of them a vector more than it has dimensions."""
    found = np.zeros((classes, dim))
    start = 0
    for number, part in enumerate(np.array_split(np.arange(classes), classes - dim)):
        wide = len(part) - 1
        found[part[0] : part[-1] + 1, start : start + wide] = simplex(len(part), seed=number)
        start += wide
    return found


def _turn(dim: int, seed: int) -> F64:
    """A rotation, (feature, feature)."""
    return np.asarray(np.linalg.qr(_drawn(dim, dim, f"rotation {seed}", seed))[0], np.float64)


def _drawn(rows: int, cols: int, name: str, seed: int) -> F64:
    return np.random.Generator(np.random.Philox(key=key(seed, name))).standard_normal((rows, cols))


def _spread(classes: int, dim: int, *, seed: int, start: int) -> F64:
    """One local optimum."""
    rows = _drawn(classes, dim, f"separation {start}", seed)
    for sharp in _SHARPER:

        def objective(flat: F64, sharp: float = sharp) -> tuple[float, F64]:
            given = flat.reshape(classes, dim)
            size = np.linalg.norm(given, axis=1, keepdims=True)
            unit = given / size
            cosines = unit @ unit.T
            np.fill_diagonal(cosines, -np.inf)
            top = float(cosines.max())
            share = np.exp(sharp * (cosines - top))
            total = float(share.sum()) / 2
            share /= total
            value = top + np.log(total) / sharp
            slope = share @ unit
            slope -= (slope * unit).sum(1, keepdims=True) * unit
            return value, (slope / size).ravel()

        options = {"maxiter": 500, "maxcor": 20, "ftol": 1e-14, "gtol": 1e-9}
        rows = minimize(objective, rows.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(classes, dim)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows, np.float64)
