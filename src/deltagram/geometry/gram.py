"""The geometry of a classifier: logits, the Grams of classifiers and class means, and how two geometries differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.matrix import ALL, Matrix, Rows, distance
from deltagram.seeds import key

_RANK = 1e-10  # of the largest eigenvalue: what is less is the rounding of a predicted Gram


@dataclass(frozen=True, kw_only=True, eq=False)
class Geometry:
    """What training leaves of k classes, up to rotation: predicted from counts and a loss, or measured on a model.

    With W (class, feature) the classifiers and M (class, feature) the class means: `classifiers` is W W^T, `means`
    is M M^T, `logits[c, y]` is w_c . mu_y (bias left out). `counts` are samples a class. `conventions` says what a
    reader must know of the numbers: weighting and centring of a measurement, scale of a prediction. A geometry without
    classifiers (features alone) has None for them and for logits.
    """

    name: str
    means: Matrix
    classifiers: Matrix | None = None
    logits: Matrix | None = None
    counts: F64
    conventions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {m.classes for m in (self.means, self.classifiers, self.logits) if m is not None} | {len(self.counts)}
        if len(sizes) > 1:
            raise SettingError(self.name, f"has parts of {sorted(sizes)} classes", expected="one number of classes")

    @property
    def classes(self) -> int:
        """k."""
        return self.means.classes

    def data(self) -> dict[str, Any]:
        """As JSON has it; `of_data` reads it."""
        parts = {"means": self.means, "classifiers": self.classifiers, "logits": self.logits}
        told = {"name": self.name, "counts": self.counts.tolist(), "conventions": dict(self.conventions)}
        return told | {name: None if part is None else part.data() for name, part in parts.items()}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """What `data` wrote. Raises SettingError for anything else."""

        def part(name: str) -> Matrix | None:
            return None if data[name] is None else Matrix.of_data(data[name])

        try:
            means = Matrix.of_data(data["means"])
            return cls(
                name=str(data["name"]), counts=np.asarray(data["counts"], np.float64), means=means,
                classifiers=part("classifiers"), logits=part("logits"), conventions=dict(data["conventions"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as fault:
            raise SettingError("geometry", f"cannot be read ({fault!r})", expected="what predict -o writes") from None

    def mean_norms(self) -> F64:
        """Norms of the class means, (class)."""
        return norms(self.means)

    def classifier_norms(self) -> F64:
        """Norms of the classifiers, (class). Raises SettingError if there are none."""
        return norms(_there(self.classifiers, self.name))

    def mean_cosines(self, rows: Rows = ALL, cols: Rows = ALL) -> F64:
        """Cosines between class means, at these rows and columns; NaN where a mean is zero."""
        return cosines(self.means, rows, cols)

    def classifier_cosines(self, rows: Rows = ALL, cols: Rows = ALL) -> F64:
        """Cosines between classifiers, at these rows and columns. Raises SettingError if there are none."""
        return cosines(_there(self.classifiers, self.name), rows, cols)

    def alignment(self) -> F64:
        """Cosine of each classifier with its own class mean, (class). Raises SettingError without classifiers."""
        own = _there(self.logits, self.name).entries()
        with np.errstate(invalid="ignore", divide="ignore"):
            found: F64 = own / (self.classifier_norms() * self.mean_norms())
        return found

    def classifier_vectors(self, dim: int, *, seed: int = 0) -> F64:
        """Classifiers with this Gram in `dim` dimensions, (class, feature), turned by a rotation drawn from `seed`.

        Raises SettingError without classifiers, and for fewer dimensions than the Gram has.
        """
        return _vectors(_there(self.classifiers, self.name), dim, seed, self.name)

    def mean_vectors(self, dim: int, *, seed: int = 0) -> F64:
        """Class means of this Gram, as `classifier_vectors`; turned so that the two have these logits, if there are."""
        if self.classifiers is None or self.logits is None:
            return _vectors(self.means, dim, seed, self.name)
        found = np.linalg.lstsq(self.classifier_vectors(dim, seed=seed), self.logits.dense(), rcond=None)[0].T
        return np.asarray(found, np.float64)


def _vectors(gram: Matrix, dim: int, seed: int, name: str) -> F64:
    sizes, axes = np.linalg.eigh(gram.dense())
    kept = sizes > _RANK * max(sizes[-1], 0.0)
    rank = int(kept.sum())
    if dim < rank:
        raise SettingError(name, f"needs {rank} dimensions", expected=f"at most {dim}", fix="take more features")
    drawn = np.random.Generator(np.random.Philox(key=key(seed, "geometry"))).standard_normal((dim, rank))
    found: F64 = (axes[:, kept] * np.sqrt(sizes[kept])) @ np.linalg.qr(drawn)[0].T
    return found


def norms(gram: Matrix) -> F64:
    """Norms of the vectors of a Gram; what rounding left below zero is zero."""
    found: F64 = np.sqrt(np.maximum(gram.entries(), 0.0))
    return found


def cosines(gram: Matrix, rows: Rows = ALL, cols: Rows = ALL) -> F64:
    """Cosines between the vectors of a Gram, at these rows and columns; NaN where a vector is zero."""
    size = norms(gram)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: F64 = gram.block(rows, cols) / np.multiply.outer(size[rows], size[cols])
    return found


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far two geometries are apart: normalised Gram distances (0 equal, sqrt 2 orthogonal), None where missing."""

    means: float
    classifiers: float | None
    logits: float | None


def compare(measured: Geometry, predicted: Geometry) -> Comparison:
    """Normalised distances of means, classifiers and logits; scale and rotation do not count.

    Raises SettingError for different numbers of classes.
    """
    if measured.classes != predicted.classes:
        raise SettingError(
            "compare", f"{measured.name} has {measured.classes} classes, {predicted.name} has {predicted.classes}"
        )
    return Comparison(
        means=distance(measured.means, predicted.means),
        classifiers=_between(measured.classifiers, predicted.classifiers),
        logits=_between(measured.logits, predicted.logits),
    )


def _between(one: Matrix | None, other: Matrix | None) -> float | None:
    return None if one is None or other is None else distance(one, other)


def _there(matrix: Matrix | None, name: str) -> Matrix:
    if matrix is None:
        raise SettingError(name, "has no classifiers", fix="give the classifier's weights when measuring")
    return matrix
