"""The supervised contrastive losses of `predict`: a loss by its name and parameters to a geometry and what shows it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.contrastive import Features, certified, certified_prototypes
from deltagram.geometry.designs import minority_angle, orthogonal, simplex
from deltagram.geometry.gram import Geometry
from deltagram.geometry.gramsolver import Excess
from deltagram.geometry.lowerbounds import full_batch_bound
from deltagram.geometry.matrix import Matrix, distance
from deltagram.geometry.problem import Problem
from deltagram.geometry.separation import separation

LOSSES: Final = ("scl", "scl-prototypes")
DESIGNS: Final = ("etf", "of", "separation", "minority:DEGREES")
_ONLY: Final = ("design", "copies", "limit", "allow_mismatch")


def contrastive_prediction(
    counts: ArrayLike,
    *,
    loss: str,
    temperature: float | None,
    features: str | None,
    dim: int | None,
    given: Mapping[str, Any],
) -> tuple[Geometry, dict[str, Any], dict[str, Any]]:
    """The geometry, its numbers and the settings taken. `given` are the parameters of prototypes, by name.

    Defaults: temperature .1; features "relu" for scl and for the orthogonal frame, "free" for other prototypes.
    Raises SettingError for prototypes' parameters without prototypes.
    """
    t = 0.1 if temperature is None else temperature
    if loss == "scl":
        for name in _ONLY:
            if given[name]:
                raise SettingError(name, "is not a parameter of scl", expected="temperature, features, dim")
        taken = _features(features or "relu")
        geometry, proof = certified(counts, temperature=t, features=taken, dim=dim)
        bound = full_batch_bound(counts, temperature=t) if taken == "relu" else None
        return geometry, _shown(proof, bound), {"temperature": t, "features": taken}
    design = given["design"] or ("of" if features == "relu" else "etf")
    taken = _features(features or ("relu" if design == "of" else "free"))
    n = Problem.of(counts).counts
    vectors, copies, more = _prototypes(n, design, given["copies"], dim=dim, temperature=t)
    geometry, proof = certified_prototypes(
        n, design=vectors, copies=copies, temperature=t, features=taken, limit=bool(given["limit"]),
        allow_mismatch=bool(given["allow_mismatch"]),
    )  # fmt: skip
    attained = taken == "relu" and "mismatch" not in geometry.conventions and not given["limit"]
    bound = full_batch_bound(n, temperature=t, copies=copies) if attained else None
    apart = distance(geometry.means, Matrix.of_vectors(vectors))
    numbers = _shown(proof, bound) | {"design": {"distance": apart, "copies": copies.tolist(), **more}}
    return geometry, numbers, {"temperature": t, "features": taken, "design": design}


def _features(name: str) -> Features:
    if name not in ("relu", "free"):
        raise SettingError("features", repr(name), expected="relu or free")
    return "relu" if name == "relu" else "free"


def _shown(proof: Excess | None, bound: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {} if bound is None else {"bound": bound}
    return found if proof is None else found | {"excess": asdict(proof) | {"gap": proof.gap, "value": proof.value}}


def _prototypes(
    counts: F64, design: str, copies: ArrayLike | None, *, dim: int | None, temperature: float
) -> tuple[F64, F64, dict[str, Any]]:
    """Vectors (class, feature), copies (class), and what a reader wants to know of the design."""
    k = len(counts)
    one = copies is None or np.size(copies) == 1
    name, _, angle = design.partition(":")
    if name == "minority":
        try:
            degrees = float(angle)
        except ValueError:
            raise SettingError("design", repr(design), expected="minority:DEGREES, such as minority:80") from None
        chosen = minority_angle(counts, degrees, dim=dim)
        mean = 1.0 if copies is None else float(np.asarray(copies, np.float64).reshape(-1)[0])
        matched = chosen.copies(temperature, mean=mean) if one else _one_a_class(copies, k)
        return chosen.vectors, matched, {"copies_from": "the design" if one else "the caller"}
    held = _one_a_class(1.0 if copies is None else copies, k)
    if design == "separation":
        if dim is None:
            raise SettingError("dim", "is missing for the design separation", fix="give the features' dimensions")
        found = separation(k, dim)
        told = {"max_cosine": found.max_cosine, "bounds": dict(found.bounds), "exact": found.exact}
        return found.vectors, held, told
    if design not in ("etf", "of"):
        raise SettingError("design", repr(design), expected=", ".join(DESIGNS))
    return (simplex(k, dim=dim) if design == "etf" else orthogonal(k, dim=dim)), held, {}


def _one_a_class(copies: ArrayLike | None, classes: int) -> F64:
    found = np.asarray(copies, np.float64).reshape(-1)
    if len(found) not in (1, classes):
        raise SettingError("copies", f"has {len(found)} numbers", expected=f"one number, or {classes}, one a class")
    return np.broadcast_to(found, classes).astype(np.float64)
