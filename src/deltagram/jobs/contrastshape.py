"""The supervised contrastive losses of `predict`: a loss by its name and parameters to a geometry and what shows it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from numpy.typing import ArrayLike

from deltagram.errors import SettingError
from deltagram.geometry.contrastive import Features, certified, certified_prototypes
from deltagram.geometry.designnames import named_prototypes
from deltagram.geometry.gram import Geometry
from deltagram.geometry.gramsolver import Excess
from deltagram.geometry.lowerbounds import full_batch_bound
from deltagram.geometry.matrix import Matrix, distance
from deltagram.geometry.problem import Problem

LOSSES: Final = ("scl", "scl-prototypes")
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
    vectors, copies, more = named_prototypes(n, design, given["copies"], dim=dim, temperature=t)
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
