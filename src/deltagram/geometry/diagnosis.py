"""Why a class fails: measured geometry beside the predicted one, and what each repair would give back."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.predict import cross_entropy
from deltagram.geometry.problem import Problem
from deltagram.geometry.remedies import REMEDIES
from deltagram.geometry.shift import fitted_shift

I64 = NDArray[np.int64]
HEALTHY: Final = "healthy"
UNEXPLAINED: Final = "unexplained"
_BEHIND = 0.05  # of recall below the better classes: what counts as failing
_SURE = 2.33  # standard deviations of that difference: one in a hundred healthy classes by chance
_GIVES_BACK = 0.25  # of the recall that is missing: what a repair must give back to be believed
_FOLDS = 2


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One class: how it fares, what is measured beside what is predicted, and which cause fits.

    `recall` (share of its samples that are told), `goes_to` the class that most of the others are taken for.
    `norm` and `predicted_norm` are of the classifier over the geometric mean of all; `nearest` is the largest cosine of
    its classifier with another one, `nearest_mean` of the class means; `alignment` the cosine of classifier and mean;
    `spread` the variance within the class over half the squared distance of the nearest other mean. `gains` says what
    recall each repair would add, estimated on samples that the repair was not fitted to.
    """

    label: int
    count: float
    samples: int
    recall: float
    goes_to: int | None
    norm: float
    predicted_norm: float
    nearest: float
    predicted_nearest: float
    nearest_mean: float
    alignment: float
    predicted_alignment: float
    spread: float
    gains: Mapping[str, float]
    cause: str
    remedy: str
    expected: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """A finding a class, and what holds for all: recall averaged over classes, now and under each repair."""

    loss: str
    findings: tuple[Finding, ...]
    balanced_recall: float
    repaired: Mapping[str, float]
    conventions: Mapping[str, str]

    def numbers(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @property
    def causes(self) -> dict[int, str]:
        """The cause of each class that fails."""
        return {f.label: f.cause for f in self.findings if f.cause != HEALTHY}


def diagnose(
    features: F64,
    labels: I64,
    classifier: F64,
    bias: F64 | None = None,
    *,
    problem: Problem,
    loss: str = "ce",
) -> Diagnosis:
    """Features (sample, feature) with labels, held out from training, beside a classifier (class, feature).

    `problem` has the counts of training and the multipliers of the loss, which give the predicted geometry; `loss`
    names it. A class fails whose recall is behind that of the better classes by .05 and beyond chance. Causes are
    looked for in its geometry (classifiers merged, small norm, wide spread, classifier turned from its mean) and, where
    that is sound, in a shift of the logits; a cause counts only if its repair gives recall back on samples it was not
    fitted to (the merged and the widely spread need another training: no repair is asked of them).

    Raises SettingError for input that `ClassMoments` refuses, for classes without samples, and for other shapes.
    """
    case = _Case.of(features, labels, classifier, bias, problem)
    logits = case.logits(case.classifier)
    recall = case.recall(logits.argmax(1))
    repaired = {name: case.crossed(repair) for name, repair in REPAIRS.items()}
    findings = tuple(_finding(case, logits, recall, repaired, label) for label in range(case.classes))
    return Diagnosis(
        loss=loss, findings=findings, balanced_recall=float(recall.mean()),
        repaired={name: float(found.mean()) for name, found in repaired.items()},
        conventions={
            "class means": "minus their plain mean over classes", "classifiers": "not centred",
            "features": "held out from training", "counts": "of training",
        },
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class _Case:
    """The samples, the classifier, and what is predicted for it."""

    features: F64
    labels: I64
    classifier: F64
    bias: F64
    problem: Problem
    moments: ClassMoments
    predicted: Mapping[str, F64]

    @classmethod
    def of(cls, features: F64, labels: I64, classifier: F64, bias: F64 | None, problem: Problem) -> "_Case":
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
            "norm": _relative(geometry.classifier_norms()), "nearest": cosines.max(1),
            "alignment": geometry.alignment(),
        }  # fmt: skip
        return cls(
            features=np.asarray(features, np.float64), labels=np.asarray(labels, np.int64), classifier=w, bias=b,
            problem=problem, moments=moments, predicted=predicted,
        )  # fmt: skip

    @property
    def classes(self) -> int:
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


Repair = Callable[[_Case, NDArray[np.bool_]], Callable[[F64], F64]]


def _by_norm(case: _Case, _: NDArray[np.bool_]) -> Callable[[F64], F64]:
    """Classifiers at their predicted norms."""
    size = np.linalg.norm(case.classifier, axis=1)
    wanted = case.predicted["norm"] * np.exp(np.log(np.maximum(size, 1e-300)).mean())
    turned = case.classifier * (wanted / np.maximum(size, 1e-300))[:, None]
    return lambda x: x @ turned.T + case.bias


def _by_mean(case: _Case, fit: NDArray[np.bool_]) -> Callable[[F64], F64]:
    """Classifiers turned to their class means, at their norms."""
    means = ClassMoments.of(case.features[fit], case.labels[fit], classes=case.classes, scatter="trace").means
    means = means - means.mean(0)
    size = np.linalg.norm(case.classifier, axis=1) / np.maximum(np.linalg.norm(means, axis=1), 1e-300)
    return lambda x: x @ (means * size[:, None]).T + case.bias


def _by_nearest(case: _Case, fit: NDArray[np.bool_]) -> Callable[[F64], F64]:
    """The nearest class mean: what features alone can tell."""
    means = ClassMoments.of(case.features[fit], case.labels[fit], classes=case.classes, scatter="trace").means
    return lambda x: x @ means.T - (means**2).sum(1) / 2


def _by_shift(case: _Case, fit: NDArray[np.bool_]) -> Callable[[F64], F64]:
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


def _relative(norms: F64) -> F64:
    found: F64 = norms / np.exp(np.log(np.maximum(norms, 1e-300)).mean())
    return found


@dataclass(frozen=True, kw_only=True)
class _Sign:
    """A cause, how far its sign is beyond what is sound (1: at the limit), and the repair that must confirm it."""

    cause: str
    strength: float
    repair: str | None


def _finding(case: _Case, logits: F64, recall: F64, repaired: Mapping[str, F64], label: int) -> Finding:
    seen = _geometry(case)
    own = {name: float(values[label]) for name, values in seen.items()}
    predicted = {name: float(values[label]) for name, values in case.predicted.items()}
    gains = {name: float(found[label] - recall[label]) for name, found in repaired.items()}
    others = np.bincount(logits.argmax(1)[case.labels == label], minlength=case.classes)
    others[label] = 0
    cause = HEALTHY
    if _fails(case, recall, label):
        cause = _cause(own, predicted, gains, missing=float(np.quantile(recall, 0.75) - recall[label]))
    remedy = REMEDIES[cause]
    return Finding(
        label=label, count=float(case.problem.counts[label]), samples=int(case.moments.counts[label]),
        recall=float(recall[label]), goes_to=int(others.argmax()) if others.any() else None,
        norm=own["norm"], predicted_norm=predicted["norm"], nearest=own["nearest"],
        predicted_nearest=predicted["nearest"], nearest_mean=own["nearest_mean"], alignment=own["alignment"],
        predicted_alignment=predicted["alignment"], spread=own["spread"], gains=gains, cause=cause,
        remedy=remedy.text(case.problem, label), expected=remedy.effect(gains),
    )  # fmt: skip


def _fails(case: _Case, recall: F64, label: int) -> bool:
    """Whether a class is behind the better ones by more than chance."""
    reference = float(np.quantile(recall, 0.75))
    behind = reference - float(recall[label])
    noise = np.sqrt(max(reference * (1 - reference), 0.01) / case.moments.counts[label])
    return bool(behind > _BEHIND and behind > _SURE * noise)


def _geometry(case: _Case) -> dict[str, F64]:
    """What is measured of every class, (class) each."""
    w, means = case.classifier, case.moments.means - case.moments.means.mean(0)
    size, length = np.linalg.norm(w, axis=1), np.linalg.norm(means, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        between_w = np.nan_to_num(w @ w.T / np.multiply.outer(size, size), nan=1.0)
        between_m = np.nan_to_num(means @ means.T / np.multiply.outer(length, length), nan=1.0)
        alignment = np.nan_to_num((w * means).sum(1) / (size * length))
    apart = np.maximum(
        (length**2)[:, None] + (length**2)[None, :] - 2 * means @ means.T, 1e-300
    )  # fmt: skip
    for matrix, value in ((between_w, -1.0), (between_m, -1.0), (apart, np.inf)):
        np.fill_diagonal(matrix, value)
    return {
        "norm": _relative(size), "nearest": between_w.max(1), "nearest_mean": between_m.max(1),
        "alignment": alignment, "spread": 2 * case.moments.variances / apart.min(1),
        "sound_spread": np.full(case.classes, np.quantile(2 * case.moments.variances / apart.min(1), 0.25)),
    }  # fmt: skip


def _cause(
    own: Mapping[str, float], predicted: Mapping[str, float], gains: Mapping[str, float], *, missing: float
) -> str:
    """The strongest sign that its repair confirms; a shift where geometry shows none."""
    if own["nearest"] - predicted["nearest"] > 0.5 * (1 - predicted["nearest"]):
        return "merged"
    signs = [
        _Sign(cause="small norm", strength=0.6 * predicted["norm"] / max(own["norm"], 1e-9), repair="norm"),
        _Sign(cause="misaligned", strength=(predicted["alignment"] - own["alignment"]) / 0.25, repair="alignment"),
        _Sign(cause="spread", strength=own["spread"] / max(3 * own["sound_spread"], 1e-9), repair=None),
    ]
    enough = _GIVES_BACK * missing
    found = [
        sign for sign in signs
        if sign.strength > 1 and (sign.repair is None or gains[sign.repair] >= enough)
    ]  # fmt: skip
    if found:
        return max(found, key=lambda sign: sign.strength).cause
    return "prior bias" if gains["shift"] >= enough else UNEXPLAINED
