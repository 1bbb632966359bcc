"""Which mean and which covariance a number is of: under imbalance the conventions in use differ many times over."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.errors import SettingError

WEIGHTINGS: Mapping[str, str] = {
    "class": "every class counts alike, within and between classes",
    "sample": "every sample counts alike, within and between classes (scatter matrices of discriminant analysis)",
    "mixed": "within classes every sample, between classes every class counts alike (as papers on collapse do)",
}
CENTRINGS: Mapping[str, str] = {
    "class_mean": "unweighted mean of the class means",
    "sample_mean": "mean of all samples",
    "none": "the origin",
}
_GOES_WITH = {"class": "class_mean", "sample": "sample_mean", "mixed": "class_mean"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Convention:
    """How classes are weighted and where means are centred; `weights` (class) are those of a centre given as numbers.

    Made by `convention`, which fills in and checks.
    """

    weighting: str
    centring: str
    weights: F64 | None = None

    def within(self, counts: F64) -> F64:
        """Share of each class in the covariance within classes, (class), summing to 1; empty classes have none."""
        return _shares(counts if self.weighting in ("sample", "mixed") else counts > 0)

    def between(self, counts: F64) -> F64:
        """Share of each class in the covariance between classes, (class)."""
        return _shares(counts if self.weighting == "sample" else counts > 0)

    def centre(self, means: F64, counts: F64) -> F64:
        """What is subtracted from class means, (feature); empty classes take no part. Raises SettingError for weights
        of another number of classes, or that add up to nothing over the classes that occur.
        """
        if self.centring == "none":
            return np.zeros(means.shape[1])
        if self.weights is None:
            return _shares(counts if self.centring == "sample_mean" else counts > 0) @ means
        if self.weights.shape != counts.shape:
            raise SettingError("centring", f"{len(self.weights)} weights", expected=f"{len(counts)}, one a class")
        return _shares(np.where(counts > 0, self.weights, 0.0)) @ means

    def described(self) -> dict[str, str]:
        """What to print beside every number."""
        centre = CENTRINGS.get(self.centring, "weighted mean of the class means, weights given")
        return {
            "weighting": f"{self.weighting}: {WEIGHTINGS[self.weighting]}",
            "centring": f"{self.centring}: {centre}",
            "covariances": "divided by the number of samples; classifiers are not centred",
        }


def convention(weighting: str = "class", centring: Any = None) -> Convention:
    """The convention of these names; `centring` may be weights a class, and unless given goes with the weighting.

    Weights w centre at sum_c w_c mu_c / sum_c w_c: those of LDT are its label scales (arXiv 2303.07608, Remark 2).

    >>> convention("sample").centring
    'sample_mean'

    Raises SettingError for an unknown name.
    """
    if weighting not in WEIGHTINGS:
        raise SettingError("weighting", f"{weighting!r} is unknown", expected=" or ".join(WEIGHTINGS))
    if centring is None or isinstance(centring, str):
        name = centring or _GOES_WITH[weighting]
        if name not in CENTRINGS:
            expected = f"{', '.join(CENTRINGS)}, or weights a class"
            raise SettingError("centring", f"{name!r} is unknown", expected=expected)
        return Convention(weighting=weighting, centring=name)
    weights = _weights(centring)
    return Convention(weighting=weighting, centring="weights", weights=weights)


def _weights(given: ArrayLike) -> F64:
    found = np.asarray(given, np.float64)
    if found.ndim != 1 or not np.isfinite(found).all() or (found < 0).any():
        raise SettingError(
            "centring", "weights that are no list of numbers", expected="one number of 0 or more a class"
        )
    return found


def _shares(weights: Any) -> F64:
    total = float(np.sum(weights))
    if not total:
        raise SettingError(
            "centring", "weights that add up to nothing", expected="a class that occurs and has a weight"
        )
    found: F64 = np.asarray(weights, np.float64) / total
    return found
