"""What a classifier decides of samples beside what the nearest class mean would (NC4)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from deltagram.arrays import F32, F64
from deltagram.geometry.conventions import convention
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.samples import I64, bias_of, classifier_weights, matrix

_SCORES = 1 << 22  # samples times classes at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Decisions:
    """A class a sample, (sample): of the nearest class mean among the classes that occur, and of the classifier."""

    nearest: I64
    decided: I64

    @property
    def agreement(self) -> float:
        """Share of the samples on which the two are one."""
        return float((self.nearest == self.decided).mean())


def decisions(features: Any, moments: ClassMoments, *, classifier: Any, bias: Any = None) -> Decisions:
    """argmin_c |h - mu_c| and argmax_c w_c . h + b_c of each sample h; the first class where several are best.

    Raises SettingError for features or a classifier of other shapes than the moments', NaN or infinity.
    """
    h = matrix(features, "features", axes="sample, feature")
    w = classifier_weights(classifier, classes=moments.classes, width=h.shape[1])
    b, there = bias_of(bias, classes=moments.classes), moments.there
    middle = convention().centre(moments.means, moments.counts.astype(np.float64))
    means = moments.means[there] - middle  # around the middle, so that squares do not swallow distances
    halves = -np.einsum("cd,cd->c", means, means) / 2
    zero = np.zeros_like(middle)
    return Decisions(
        nearest=there[_best(h, means, halves, centre=middle)], decided=_best(h, w.astype(np.float64), b, centre=zero)
    )


def _best(features: F32 | F64, weights: F64, bias: F64, *, centre: F64) -> I64:
    step = max(1, _SCORES // len(weights))
    found = [
        ((features[start : start + step] - centre) @ weights.T + bias).argmax(1)
        for start in range(0, len(features), step)
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)
