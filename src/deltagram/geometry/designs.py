"""Fixed prototypes, one unit vector a class: the simplex, the orthogonal frame, chosen angles of rare classes.

Each returns (class, feature), float64, the same for the same seed.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.additive import Additive
from deltagram.geometry.frames import etf
from deltagram.geometry.gram import Geometry
from deltagram.geometry.matrix import Matrix
from deltagram.geometry.problem import Problem

Supports = Literal["axes", "blocks"]
_GRID: Final = 400  # shares of the majority that are looked at for a cosine


def simplex(classes: int, *, dim: int | None = None, seed: int = 0) -> F64:
    """Unit vectors at cosines `-1 / (k - 1)`, turned by a rotation drawn from `seed`; `dim` defaults to k - 1.

    For features without an activation. Raises SettingError for `dim` below k - 1.

    >>> v = simplex(4, dim=6)
    >>> np.round(v @ v.T, 6)[0]
    array([ 1.      , -0.333333, -0.333333, -0.333333])
    """
    frame = etf(classes)
    wide = _least("simplex", classes - 1, dim, classes, "separation places them in any dimension")
    vectors = frame.mean_vectors(wide, seed=seed)
    unit: F64 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def orthogonal(classes: int, *, dim: int | None = None, supports: Supports = "blocks") -> F64:
    """Non-negative orthonormal vectors, for features after a ReLU; `dim` defaults to k.

    With "axes" class c is coordinate c alone, and a unit of the network that dies takes its class with it. With
    "blocks" each class has `dim // k` coordinates of its own, the first ones one more where it does not divide: one
    dead unit of b leaves a cosine of `sqrt(1 - 1/b)` to reach. Raises SettingError for `dim` below k.

    >>> orthogonal(2, dim=4).round(3)
    array([[0.707, 0.707, 0.   , 0.   ],
           [0.   , 0.   , 0.707, 0.707]])
    """
    etf(classes)
    wide = _least("orthogonal", classes, dim, classes, "use separation, for features without an activation")
    if supports not in ("axes", "blocks"):
        raise SettingError("supports", repr(supports), expected="axes or blocks")
    owner = np.arange(wide) if supports == "axes" else np.sort(np.arange(wide) % classes)
    found = (owner[None, :] == np.arange(classes)[:, None]).astype(np.float64)
    unit: F64 = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def _least(where: str, needed: int, dim: int | None, classes: int, fix: str) -> int:
    """`dim`, or what is needed. Raises SettingError for less."""
    if dim is not None and dim < needed:
        raise SettingError(
            where, f"{classes} classes in {dim} dimensions", expected=f"{needed} dimensions or more", fix=fix
        )
    return needed if dim is None else int(dim)


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """Prototypes at chosen angles, (class, feature); `additive` says which copies make them exact."""

    vectors: F64
    additive: Additive

    def copies(self, temperature: float, *, mean: float = 1.0) -> F64:
        """Copies a class, (class), in the ratios that make the prototypes the minimiser as copies grow."""
        return self.additive.copies(temperature, mean=mean)


def placed(additive: Additive, *, dim: int | None = None, seed: int = 0) -> Chosen:
    """Unit vectors of an admissible Gram, turned by a rotation drawn from `seed`; `dim` defaults to k - 1."""
    k = len(additive.weights)
    wide = _least("design", k - 1, dim, k, "separation places them in any dimension")
    gram = Matrix.of_dense(additive.gram())
    held = Geometry(name="design", means=gram, counts=np.ones(k))
    vectors = held.mean_vectors(wide, seed=seed)
    unit: F64 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return Chosen(vectors=unit, additive=additive)


def minority(counts: ArrayLike) -> NDArray[np.bool_]:
    """Which classes are rare: counts below the geometric mean of the largest and the smallest, (class).

    Raises SettingError where all counts are equal.

    >>> minority([500, 500, 50])
    array([False, False,  True])
    """
    n = Problem.of(counts).counts
    if np.ptp(n) == 0:
        raise SettingError("counts", "are all equal: no class is rare", fix="use the simplex")
    found: NDArray[np.bool_] = n < np.sqrt(n.max() * n.min())
    return found


def minority_angle(counts: ArrayLike, degrees: float, *, dim: int | None = None, seed: int = 0) -> Chosen:
    """Prototypes of rare classes (`minority`) `degrees` apart, all others as far from each other as that leaves them.

    Cosines are `2 a` between frequent classes, `2 b = cos(degrees)` between rare ones, `a + b` across: the one
    admissible design of two kinds of classes with this angle. Raises SettingError for fewer than two rare classes, and
    for an angle that no admissible design has, naming the range.
    """
    rare = minority(counts)
    if rare.sum() < 2:
        raise SettingError("minority_angle", "one rare class has no angle", expected="two or more rare classes")
    k, m = len(rare), int(rare.sum())

    def made(share: float) -> Additive:
        """Rare classes have this share of the weights."""
        return Additive(weights=np.where(rare, share / m, (1 - share) / (k - m)))

    def cosine(share: float) -> float:
        return 2 * float(made(share).shifts[rare][0])

    low = 1e-6 if k - m > 2 else 1 - (k - m) / 2 + 1e-6  # a weight is below one half
    high = 1 - 1e-6 if m > 2 else m / 2 - 1e-6
    shares = np.linspace(low, min(high, 1 - 1e-6), _GRID)
    values = np.array([cosine(share) for share in shares])
    wanted = float(np.cos(np.deg2rad(degrees)))
    at = np.flatnonzero((values[:-1] - wanted) * (values[1:] - wanted) <= 0)
    if not (np.isfinite(degrees) and len(at)):
        widest, least = np.rad2deg(np.arccos(np.clip([values.min(), values.max()], -1, 1)))
        raise SettingError(
            "minority_angle", f"{degrees:g} degrees", expected=f"above {least:.2f} and below {widest:.2f} degrees",
            fix="no prototypes outside have positive weights that balance them",
        )  # fmt: skip
    share = brentq(lambda x: cosine(x) - wanted, shares[at[0]], shares[at[0] + 1], xtol=1e-15)
    return placed(made(float(share)), dim=dim, seed=seed)
