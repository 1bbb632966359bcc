"""What could be done about a classifier without training again, and what recall each repair gives, cross-fitted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.predict import cross_entropy
from deltagram.geometry.problem import Problem
from deltagram.geometry.samples import I64
from deltagram.geometry.shift import fitted_shift

_FOLDS: Final = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """The samples, the classifier, and what is predicted for it."""

    features: F64
    labels: I64
    classifier: F64
    bias: F64
    problem: Problem
    moments: ClassMoments
    predicted: Mapping[str, F64]

    @classmethod
    def of(cls, features: F64, labels: I64, classifier: F64, bias: F64 | None, problem: Problem) -> "Case":
        """Checked. Raises SettingError for shapes that do not fit, and for classes of fewer than four samples."""
        k = problem.classes
        w = np.asarray(classifier, np.float64)
        if w.ndim != 2 or len(w) != k:
            raise SettingError("classifier", f"has shape {w.shape}", expected=f"({k}, feature): a row for each count")
        b = np.zeros(k) if bias is None else np.asarray(bias, np.float64)
        if b.shape != (k,):
            raise SettingError("bias", f"has shape {b.shape}", expected=f"({k},)")
        moments = ClassMoments.of(features, labels, classes=k, scatter="trace")
        few = np.flatnonzero(moments.counts < 2 * _FOLDS)
        if len(few):
            raise SettingError(
                "labels", f"class {int(few[0])} has {moments.counts[few[0]]} samples", expected=f"{2 * _FOLDS} or more"
            )
        if moments.features != w.shape[1]:
            raise SettingError("classifier", f"takes {w.shape[1]} features", expected=f"{moments.features}")
        geometry = cross_entropy(problem.counts, class_scale=problem.class_scale, label_scale=problem.label_scale)
        cosines = geometry.classifier_cosines()
        np.fill_diagonal(cosines, -1.0)
        predicted = {
            "norm": relative(geometry.classifier_norms()), "nearest": cosines.max(1),
            "alignment": geometry.alignment(),
        }  # fmt: skip
        return cls(
            features=np.asarray(features, np.float64), labels=np.asarray(labels, np.int64), classifier=w, bias=b,
            problem=problem, moments=moments, predicted=predicted,
        )  # fmt: skip

    @property
    def classes(self) -> int:
        """k."""
        return self.problem.classes

    def logits(self, classifier: F64) -> F64:
        """Of all samples."""
        found: F64 = self.features @ classifier.T + self.bias
        return found

    def recall(self, guess: I64) -> F64:
        """Share of a class's samples that are told, (class)."""
        right = np.bincount(self.labels, weights=guess == self.labels, minlength=self.classes)
        found: F64 = right / self.moments.counts
        return found

    def crossed(self, repair: "Repair") -> F64:
        """Recall when each half of the samples is told by the repair fitted to the other half, (class)."""
        guess = np.empty(len(self.labels), np.int64)
        fold = _folds(self.labels)
        for part in range(_FOLDS):
            inside = fold == part
            guess[inside] = repair(self, ~inside)(self.features[inside]).argmax(1)
        return self.recall(guess)


Repair = Callable[[Case, NDArray[np.bool_]], Callable[[F64], F64]]


def _by_norm(case: Case, _: NDArray[np.bool_]) -> Callable[[F64], F64]:
    """Classifiers at their predicted norms."""
    size = np.linalg.norm(case.classifier, axis=1)
    wanted = case.predicted["norm"] * np.exp(np.log(np.maximum(size, 1e-300)).mean())
    turned = case.classifier * (wanted / np.maximum(size, 1e-300))[:, None]
    return lambda x: x @ turned.T + case.bias


def _by_mean(case: Case, fit: NDArray[np.bool_]) -> Callable[[F64], F64]:
    """Classifiers turned to their class means, at their norms."""
    means = ClassMoments.of(case.features[fit], case.labels[fit], classes=case.classes, scatter="trace").means
    means = means - means.mean(0)
    size = np.linalg.norm(case.classifier, axis=1) / np.maximum(np.linalg.norm(means, axis=1), 1e-300)
    return lambda x: x @ (means * size[:, None]).T + case.bias


def _by_nearest(case: Case, fit: NDArray[np.bool_]) -> Callable[[F64], F64]:
    """The nearest class mean: what features alone can tell."""
    means = ClassMoments.of(case.features[fit], case.labels[fit], classes=case.classes, scatter="trace").means
    return lambda x: x @ means.T - (means**2).sum(1) / 2


def _by_shift(case: Case, fit: NDArray[np.bool_]) -> Callable[[F64], F64]:
    """The classifier as it is, its logits shifted."""
    shift = fitted_shift(case.logits(case.classifier)[fit], case.labels[fit])
    return lambda x: x @ case.classifier.T + case.bias - shift


REPAIRS: Final[Mapping[str, Repair]] = {
    "norm": _by_norm, "alignment": _by_mean, "nearest mean": _by_nearest, "shift": _by_shift,
}  # fmt: skip


def _folds(labels: I64) -> I64:
    """Halves of each class, in turn."""
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels))])[labels[order]]
    rank[order] = np.arange(len(labels)) - starts
    return rank % _FOLDS


def relative(norms: F64) -> F64:
    """Norms over their geometric mean."""
    found: F64 = norms / np.exp(np.log(np.maximum(norms, 1e-300)).mean())
    return found
