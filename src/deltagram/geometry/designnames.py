"""Prototype designs by the names that users type."""

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.designs import minority_angle, orthogonal, simplex
from deltagram.geometry.separation import separation

DESIGNS: Final = ("etf", "of", "separation", "minority:DEGREES")


def named_prototypes(
    counts: F64, design: str, copies: ArrayLike | None, *, dim: int | None, temperature: float
) -> tuple[F64, F64, dict[str, Any]]:
    """Vectors (class, feature), copies (class), and what a reader wants to know of one of `DESIGNS`.

    `copies` is a number (1 unless given), or one a class; of the design minority a number is the mean of those that
    make it exact as copies grow. Raises SettingError for another design, an angle that is no number, a separation
    without `dim`, and what the designs themselves refuse.
    """
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
