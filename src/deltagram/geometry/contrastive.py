"""The geometry of the supervised contrastive loss, from samples a class: with ReLU, without, with prototypes.

Where it holds: the global minimum over unit features that are otherwise free, one batch of all samples; with a ReLU any
batches keep it a minimiser (`lowerbounds`), with prototypes the only one. Counts are of embeddings: two views of an
image are two. Classes of one sample are never anchors, unless they have prototypes.
"""

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.designs import orthogonal, simplex
from deltagram.geometry.frames import etf, orthogonal_frame
from deltagram.geometry.gram import Geometry
from deltagram.geometry.gramprogram import Contrast
from deltagram.geometry.gramsolver import Excess, Solution, solve
from deltagram.geometry.headmatch import head_mismatch
from deltagram.geometry.matrix import Matrix
from deltagram.geometry.orthant import nonnegative_limit
from deltagram.geometry.problem import Problem, check_positive

Features = Literal["relu", "free"]
FEATURES: Final = ("relu", "free")
_COLDEST: Final = 0.004  # e^(-2/t) is a number in double precision
_UNIT: Final = 1e-5  # of a norm of 1: prototypes may be single-precision


def supervised_contrastive(
    counts: ArrayLike, *, temperature: float = 0.1, features: Features = "relu", dim: int | None = None
) -> Geometry:
    """Class means where the loss of arXiv 2004.11362 (sum over positives outside the logarithm) is least.

    "relu", features that are not negative: an orthogonal frame, for any counts and temperature, in k dimensions or more
    (Theorem 1 of arXiv 2306.07960). "free": the class-level program of `gramprogram`, whose angles depend on counts;
    the simplex where they are equal. Its certificate is that of `certified`.

    Raises SettingError for counts that are not positive whole numbers, of which one is above 1; for a temperature that
    is not positive; and for `dim` that is too small, naming the least.
    """
    return certified(counts, temperature=temperature, features=features, dim=dim)[0]


def certified(
    counts: ArrayLike, *, temperature: float = 0.1, features: Features = "relu", dim: int | None = None
) -> tuple[Geometry, Excess | None]:
    """`supervised_contrastive` and what shows that it is least; None where each anchor's term is at its bound."""
    n = Problem.of(counts).counts
    _checked(temperature, features)
    if n.max() == 1:
        raise SettingError("counts", "are one sample in every class: no sample has a positive", fix="count all views")
    told = {"features": _FEATURES[features], "temperature": f"{temperature:g}"} | _singles(n)
    if features == "relu":
        _enough(dim, len(n), len(n))
        return _of(orthogonal_frame(len(n)).means, n, "scl, orthogonal frame", told), None
    found = solve(Contrast.of_counts(n, temperature=temperature))
    _enough(dim, min(found.rank, len(n) - 1), len(n))  # the Gram at the minimum is singular: A - diag(y) times it is 0
    return _of(_gram(found), n, "scl, free features", told), found.proof


def prototypes(
    counts: ArrayLike,
    *,
    design: str | ArrayLike,
    copies: ArrayLike = 1.0,
    temperature: float = 0.1,
    features: Features = "free",
    dim: int | None = None,
    limit: bool = False,
    allow_mismatch: bool = False,
) -> Geometry:
    """Class means with fixed prototypes in every batch of these `counts`: negatives to all, positives to their class.

    `design` is "etf", "of" or unit vectors (class, feature), features having as many dimensions; `copies` one number or
    one a class (positive, need not be whole); with `limit` they are beyond number and only their ratios count, so that
    the loss is cross-entropy with a fixed classifier (arXiv 2310.00893). "of" with "relu" is the orthogonal frame for
    any counts, copies, temperature and batches. "etf" with "free" is the simplex in the limit and for equal counts;
    else the class-level program. A pair that does not go together (`headmatch`) is refused with the reason; with
    `allow_mismatch` what happens instead is predicted, and said in `conventions`.

    Raises SettingError as `supervised_contrastive`, and for copies or vectors of other lengths.
    """
    return certified_prototypes(
        counts, design=design, copies=copies, temperature=temperature, features=features, dim=dim, limit=limit,
        allow_mismatch=allow_mismatch,
    )[0]  # fmt: skip


def certified_prototypes(
    counts: ArrayLike,
    *,
    design: str | ArrayLike,
    copies: ArrayLike = 1.0,
    temperature: float = 0.1,
    features: Features = "free",
    dim: int | None = None,
    limit: bool = False,
    allow_mismatch: bool = False,
) -> tuple[Geometry, Excess | None]:
    """`prototypes` and what shows that it is least; None where it is exact by symmetry or each term is at its bound.

    Of free features it is the least over one vector a class, which is a minimiser only where copies are many
    (`gramprogram`): with few, samples of a class may lie apart.
    """
    n = Problem.of(counts).counts
    _checked(temperature, features)
    w = design_vectors(design, len(n), dim=dim)
    q = _copies(copies, len(n))
    gram: F64 = w @ w.T
    reason = head_mismatch(gram, features)
    if features == "relu" and reason is None and w.min() < -_UNIT:
        reason = "prototypes with negative entries, features that are not negative: use those of designs.orthogonal"
    if reason and not allow_mismatch:
        raise SettingError("design", reason, fix="allow_mismatch predicts what happens instead")
    told = {"features": _FEATURES[features], "temperature": f"{temperature:g}"} | _told(q, limit=limit, reason=reason)
    if features == "relu":
        if reason is None:
            told["exact"] = "for any counts, copies, temperature and batches"
            return _of(orthogonal_frame(len(n)).means, n, "scl-prototypes, orthogonal frame", told), None
        return _orthant(n, w, q, temperature=temperature, told=told)
    if np.ptp(q) == 0 and (limit or np.ptp(n) == 0) and _is_simplex(gram):
        told["exact"] = "by symmetry" if np.ptp(n) == 0 else "in the limit of many copies"
        unit = etf(len(n)).means.scaled(np.sqrt(len(n) / (len(n) - 1)), np.sqrt(len(n) / (len(n) - 1)))
        return _of(unit, n, "scl-prototypes, simplex", told), None
    found = _program(n, w, q, temperature=temperature, limit=limit)
    return _of(_gram(found), n, "scl-prototypes, free features", told), found.proof


def design_vectors(design: str | ArrayLike, classes: int, *, dim: int | None = None) -> F64:
    """Prototypes by name, or as given (class, feature): unit vectors, or SettingError."""
    if isinstance(design, str):
        if design not in ("etf", "of"):
            raise SettingError("design", repr(design), expected="etf, of, or unit vectors (class, feature)")
        return simplex(classes, dim=dim) if design == "etf" else orthogonal(classes, dim=dim)
    w = np.asarray(design, np.float64)
    if w.ndim != 2 or len(w) != classes or (dim is not None and w.shape[1] != dim):
        wanted = f"({classes}, {'feature' if dim is None else dim})"
        raise SettingError("design", f"has shape {w.shape}", expected=f"{wanted}, one vector a class")
    size = np.linalg.norm(w, axis=1)
    wrong = np.flatnonzero(~(np.abs(size - 1) <= _UNIT))
    if len(wrong):
        raise SettingError("design", f"class {wrong[0]} has norm {size[wrong[0]]:g}", expected="unit vectors")
    unit: F64 = w / size[:, None]
    return unit


_FEATURES: Final[Mapping[str, str]] = {"relu": "not negative, of norm 1", "free": "of norm 1"}


def _checked(temperature: float, features: str) -> None:
    check_positive("temperature", temperature)
    if features == "free" and temperature < _COLDEST:
        raise SettingError("temperature", f"{temperature:g}", expected=f"{_COLDEST:g} or more")
    if features not in FEATURES:
        raise SettingError("features", repr(features), expected=" or ".join(FEATURES))


def _copies(given: ArrayLike, classes: int) -> F64:
    found = np.asarray(given, np.float64)
    if found.ndim > 1 or (found.ndim == 1 and len(found) not in (1, classes)):
        raise SettingError("copies", f"has shape {found.shape}", expected=f"one number, or {classes}, one a class")
    wrong = ~(np.isfinite(found) & (found > 0))
    if wrong.any():
        raise SettingError(
            "copies", f"holds {float(found[wrong].reshape(-1)[0]):g}", expected="positive numbers",
            fix="for none at all use the loss without prototypes; for copies beyond number, limit",
        )  # fmt: skip
    return np.broadcast_to(found, classes).astype(np.float64)


def _enough(dim: int | None, needed: int, classes: int) -> None:
    """Raises SettingError for fewer dimensions than the prediction has."""
    if dim is not None and dim < needed:
        raise SettingError(
            "dim", f"{dim} dimensions for {classes} classes", expected=f"{needed} or more",
            fix="in fewer, nothing is known; prototypes of designs.separation fix a geometry in any",
        )  # fmt: skip


def _singles(n: F64) -> dict[str, str]:
    many = int((n == 1).sum())
    if not many:
        return {}
    more = "; cosines between them are not determined" if many > 1 else ""
    one = "1 class has" if many == 1 else f"{many} classes have"
    return {"single samples": f"{one} one sample and no positive: never an anchor{more}"}


def _told(q: F64, *, limit: bool, reason: str | None) -> dict[str, str]:
    shown = f"{q[0]:g} a class" if np.ptp(q) == 0 else f"{q.min():.4g} to {q.max():.4g} a class"
    told = {"copies": f"beyond number, in ratios of {shown}" if limit else shown}
    return told | ({} if reason is None else {"mismatch": reason})


def _of(means: Matrix, counts: F64, name: str, told: Mapping[str, str]) -> Geometry:
    return Geometry(name=name, means=means, counts=counts, conventions={**told, "centring": "none: measure with it"})


def _gram(found: Solution) -> Matrix:
    point = found.point
    return point.contrast.spread(point.shared, point.own)


def _is_simplex(gram: F64) -> bool:
    k = len(gram)
    return float(np.abs(gram - (np.eye(k) * k - 1) / (k - 1)).max()) <= _UNIT


def _program(n: F64, w: F64, q: F64, *, temperature: float, limit: bool) -> Solution:
    """The class-level program, in the prototypes' own dimensions and as many of the features' as can matter."""
    left, sizes, _ = np.linalg.svd(w, full_matrices=False)
    kept = sizes > _UNIT * sizes[0]
    inside: F64 = left[:, kept] * sizes[kept]
    inside /= np.linalg.norm(inside, axis=1, keepdims=True)
    contrast = Contrast.of_prototypes(n, inside, q, temperature=temperature, samples=not limit)
    return solve(contrast, extra=min(len(n), w.shape[1] - inside.shape[1]))


def _orthant(n: F64, w: F64, q: F64, *, temperature: float, told: Mapping[str, str]) -> tuple[Geometry, Excess | None]:
    """What features that are not negative do beside prototypes they cannot reach."""
    h, gap = nonnegative_limit(w, q, temperature=temperature)
    more = {
        "copies": "beyond number: nothing is known for few",
        "instead": f"the least non-negative features at the coordinates of these prototypes, within {gap:.1e} a sample",
    }
    return _of(Matrix.of_vectors(h), n, "scl-prototypes, mismatched", {**told, **more}), None
