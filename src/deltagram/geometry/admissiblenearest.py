"""The admissible Gram of prototypes that is nearest to a wanted one."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from deltagram.arrays import F64
from deltagram.geometry.additive import Additive
from deltagram.geometry.admissible import shifts_of, wanted

_EDGE: Final = 1e-6  # how near to 0 and to one half weights may come


@dataclass(frozen=True, kw_only=True, eq=False)
class Nearest:
    """An admissible Gram of rank k - 1 near a wanted one, and how far (Frobenius)."""

    additive: Additive
    distance: float


def nearest_admissible(gram: ArrayLike) -> Nearest:
    """The admissible Gram of rank k - 1 nearest to a wanted one (class, class), in the Frobenius norm.

    All of them are `Additive(weights)`, one for each point of an open polytope, so the distance is minimised over
    weights (SLSQP with its gradient, from equal weights and from those of the best sums s_c + s_c'). A wanted Gram
    that is admissible comes back; otherwise what is found is a stationary point, the better of two, and not known to
    be the nearest of all. Weights stay 1e-6 from 0 and from one half: where the nearest lies on that edge, some
    prototype has all but no weight, and the distance is that of the closure.

    Raises SettingError for what is not a symmetric matrix of numbers.
    """
    g = wanted(gram)
    k = len(g)
    if k == 2:
        opposite = Additive(weights=np.full(2, 0.5))
        return Nearest(additive=opposite, distance=float(np.linalg.norm(opposite.gram() - g)))

    def objective(a: F64) -> tuple[float, F64]:
        return _squares(a, g)

    found = []
    for start in (np.full(k, 1 / k), _from_shifts(shifts_of(g))):
        got = minimize(
            objective, start, jac=True, method="SLSQP", bounds=[(_EDGE, 0.5 - _EDGE)] * k,
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like},
            options={"maxiter": 1000, "ftol": 1e-16},
        )  # fmt: skip
        inside = np.clip(got.x, _EDGE, 0.5 - _EDGE)
        found.append(Additive(weights=inside / inside.sum()))
    best = min(found, key=lambda one: float(np.linalg.norm(one.gram() - g)))
    return Nearest(additive=best, distance=float(np.linalg.norm(best.gram() - g)))


def _from_shifts(s: F64) -> F64:
    """Weights whose shifts are these, where they are admissible; near such weights elsewhere."""
    over = 1 / np.maximum(1 - 2 * s, _EDGE)
    v = -(1 + float(s @ over)) / float(over.sum())
    inside = np.clip(-(s + v) * over, 1e-3 / len(s), 0.49)
    shares: F64 = inside / inside.sum()
    return np.clip(shares, _EDGE, 0.49)


def _squares(a: F64, g: F64) -> tuple[float, F64]:
    """`|G(a) - g|^2 / 2` and its gradient by a."""
    over = 1 / (1 - 2 * a)
    top, bottom = -float(a**2 @ over), 1 + float(a @ over)
    v = top / bottom
    s = -(a + v) * over
    off = np.add.outer(s, s) - g
    np.fill_diagonal(off, 0.0)
    by_s = 2 * off.sum(1)
    d_top = -(2 * a * over + 2 * a**2 * over**2)
    d_bottom = over + 2 * a * over**2
    d_v = (d_top - v * d_bottom) / bottom
    gradient: F64 = -by_s * over * (1 + 2 * (a + v) * over) - float(by_s @ over) * d_v
    diagonal = float(((1 - np.diag(g)) ** 2).sum())
    return (float((off**2).sum()) + diagonal) / 2, gradient
