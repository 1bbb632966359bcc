"""The geometry of a classifier: logits, the Grams of classifiers and class means, and how two geometries differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.matrix import ALL, Matrix, Rows, distance


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
