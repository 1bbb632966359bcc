"""Why a class fails: measured geometry beside the predicted one, and what each repair would give back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from deltagram.arrays import F64
from deltagram.geometry.problem import Problem
from deltagram.geometry.remedies import REMEDIES
from deltagram.geometry.repairs import REPAIRS, Case, relative
from deltagram.geometry.samples import I64

HEALTHY: Final = "healthy"
UNEXPLAINED: Final = "unexplained"
_BEHIND = 0.05  # of recall below the better classes: what counts as failing
_SURE = 2.33  # standard deviations of that difference: one in a hundred healthy classes by chance
_GIVES_BACK = 0.25  # of the recall that is missing: what a repair must give back to be believed


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
    case = Case.of(features, labels, classifier, bias, problem)
    logits = case.logits(case.classifier)
    recall = case.recall(logits.argmax(1))
    repaired = {name: case.crossed(repair) for name, repair in REPAIRS.items()}
    seen = _geometry(case)
    findings = tuple(_finding(case, seen, logits, recall, repaired, label) for label in range(case.classes))
    return Diagnosis(
        loss=loss, findings=findings, balanced_recall=float(recall.mean()),
        repaired={name: float(found.mean()) for name, found in repaired.items()},
        conventions={
            "class means": "minus their plain mean over classes", "classifiers": "not centred",
            "features": "held out from training", "counts": "of training",
        },
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Sign:
    """A cause, how far its sign is beyond what is sound (1: at the limit), and the repair that must confirm it."""

    cause: str
    strength: float
    repair: str | None


def _finding(
    case: Case, seen: Mapping[str, F64], logits: F64, recall: F64, repaired: Mapping[str, F64], label: int
) -> Finding:
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


def _fails(case: Case, recall: F64, label: int) -> bool:
    """Whether a class is behind the better ones by more than chance."""
    reference = float(np.quantile(recall, 0.75))
    behind = reference - float(recall[label])
    noise = np.sqrt(max(reference * (1 - reference), 0.01) / case.moments.counts[label])
    return bool(behind > _BEHIND and behind > _SURE * noise)


def _geometry(case: Case) -> dict[str, F64]:
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
        "norm": relative(size), "nearest": between_w.max(1), "nearest_mean": between_m.max(1),
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
