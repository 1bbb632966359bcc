"""Measured geometry of features and classifier: collapse numbers, each with the convention it is of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.collapse import cdnv, effective_rank, nc1, nc1_ratio
from deltagram.geometry.conventions import Convention, convention
from deltagram.geometry.gram import Comparison, Geometry
from deltagram.geometry.moments import ClassMoments, classes_text, occurring
from deltagram.geometry.nearest import Decisions, decisions
from deltagram.geometry.predict import etf
from deltagram.geometry.samples import I64, class_numbers, classifier_weights
from deltagram.geometry.symmetry import (
    PAIRS,
    Frame,
    Vectors,
    alignment,
    apart,
    frame,
    grams_apart,
    group_cosine,
    self_duality,
)

__all__ = ["ClassMoments", "Classes", "Collapse", "Minority", "collapse", "collapse_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Classes:
    """One number a class that occurs, (class); `numbers` says which class it is.

    `variances` are mean squared distances from the class mean, `mean_norms` of centred means.
    """

    numbers: I64
    counts: I64
    variances: F64
    mean_norms: F64
    classifier_norms: F64 | None
    alignment: F64 | None


@dataclass(frozen=True, kw_only=True)
class Minority:
    """Whether small classes have merged.

    `classes` have fewer samples than sqrt(n_smallest n_largest): of a STEP imbalance its minority. `collapse` is the
    mean cosine over pairs of their classifiers, less that over pairs of the others': 0 for any symmetric frame, near 1
    where minority classifiers are one vector (minority collapse, Fang et al. 2021). `means` is the same of centred
    means. NaN where either side has fewer than two classes.
    """

    classes: tuple[int, ...]
    collapse: float | None
    means: float


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """How far classes have collapsed, under `conventions`; what was not measured is None.

    `nc1` = tr(S_W S_B^+), `nc1_ratio` = tr S_W / tr S_B, `cdnv` with the power in the conventions; `means` and
    `classifiers` are the frames (NC2); `self_duality` and `gram_duality` compare classifiers with means as vectors and
    as Grams (NC3); `agreement` is the share of samples whose nearest class mean is the classifier's decision (NC4).
    `against` holds normalised Gram distances to named geometries. `minority` is None where all counts are equal.
    """

    samples: int
    nc1: float | None
    nc1_ratio: float
    cdnv: float | None
    means: Frame
    classifiers: Frame | None
    self_duality: float | None
    gram_duality: float | None
    agreement: float | None
    effective_rank: float
    minority: Minority | None
    against: Mapping[str, Comparison]
    classes: Classes
    conventions: Mapping[str, str]

    def numbers(self) -> dict[str, Any]:
        """Everything as plain data; numbers that are not finite are None."""
        found: dict[str, Any] = _plain(asdict(self))
        return found

    def __str__(self) -> str:
        told = [f"{name}: {text}" for name, text in self.conventions.items()]
        rows = {
            "NC1 tr(S_W S_B^+)": self.nc1, "NC1 tr S_W / tr S_B": self.nc1_ratio, "CDNV": self.cdnv,
            "NC2 means to ETF": self.means.etf_distance,
            "NC2 classifiers to ETF": self.classifiers.etf_distance if self.classifiers else None,
            "NC3 self-duality": self.self_duality, "NC4 agreement": self.agreement,
            "effective rank": self.effective_rank,
        }  # fmt: skip
        return "\n".join([*told, *(f"{name} = {value:.6g}" for name, value in rows.items() if value is not None)])


def collapse(
    moments: ClassMoments,
    *,
    classifier: Any = None,
    decided: Decisions | None = None,
    weighting: str = "class",
    centring: Any = None,
    against: Sequence[Geometry] = (),
    power: int = 2,
) -> Collapse:
    """Measure the classes that occur in `moments`, and a classifier (class, feature) beside them if there is one.

    `weighting` and `centring` are of `conventions.convention`; `decided`, of `nearest.decisions`, gives NC4. `against`
    are geometries of the classes that occur. NC1 needs a scatter matrix; CDNV, over all pairs, is left out beyond
    `PAIRS` classes.

    Raises SettingError for fewer than two classes that occur, shapes that do not match, a scatter of other weights, or
    a geometry of another number of classes.
    """
    there, how = occurring(moments), convention(weighting, centring)
    counts = moments.counts.astype(np.float64)
    centre = how.centre(moments.means, counts)
    means = Vectors(rows=moments.means, there=there, centre=centre)
    w = None
    if classifier is not None:
        rows = classifier_weights(classifier, classes=moments.classes, width=moments.features)
        w = Vectors(rows=rows, there=there, centre=np.zeros(moments.features))
    balanced = etf(len(there)).means
    return Collapse(
        samples=int(moments.counts.sum()), **_spread(moments, how, means, power),
        means=frame(means, balanced), classifiers=None if w is None else frame(w, balanced),
        self_duality=None if w is None else self_duality(w, means),
        gram_duality=None if w is None else grams_apart(w, means),
        agreement=None if decided is None else decided.agreement, minority=_minority(moments, means, w),
        against={target.name: _against(means, w, target) for target in against},
        classes=_classes(moments, means, w),
        conventions=how.described() | {
            "nc1": "not divided by the number of classes", "cdnv": f"distance to the power {power}",
            "classes": classes_text(moments),
        },
    )  # fmt: skip


def collapse_of(
    features: Any,
    labels: Any,
    *,
    classes: int | None = None,
    classifier: Any = None,
    bias: Any = None,
    weighting: str = "class",
    centring: Any = None,
    power: int = 2,
) -> Collapse:
    """`collapse` of features (sample, feature) and labels (sample) that are all at hand, NC4 included.

    `bias`, (class), is of NC4 alone: the others are of directions. Raises SettingError as `collapse` and
    `ClassMoments.update_in_place` do.

    >>> found = collapse_of([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0]], [0, 0, 1], classifier=np.eye(2))
    >>> found.agreement, round(found.nc1_ratio, 6)
    (1.0, 0.01105)
    """
    if classifier is None and bias is not None:
        raise SettingError("bias", "is of a classifier, and none is given", fix="give classifier=")
    if classes is None and classifier is not None:
        classes = len(classifier)
    moments = counted(features, labels, classes=classes, weighting=weighting)
    decided = None if classifier is None else decisions(features, moments, classifier=classifier, bias=bias)
    return collapse(
        moments, classifier=classifier, decided=decided, weighting=weighting, centring=centring, power=power
    )


def counted(features: Any, labels: Any, *, classes: int | None, weighting: str) -> ClassMoments:
    """Moments of samples that are all at hand, with the scatter that this weighting needs: labels are counted first."""
    y = class_numbers(labels, classes=classes)
    many = classes if classes is not None else int(y.max(initial=0)) + 1
    known = np.bincount(y, minlength=many) if weighting == "class" else None
    return ClassMoments.of(features, y, classes=many, class_counts=known)


def _spread(moments: ClassMoments, how: Convention, means: Vectors, power: int) -> dict[str, Any]:
    """NC1 in its forms, and the rank, from means in an array of their own."""
    counts, there = moments.counts.astype(np.float64), moments.there
    within, between = how.within(counts), how.between(counts)[there]
    centred, variances = means.all(), moments.traces[there] / counts[there]
    size = float(np.sqrt(np.einsum("cd,cd->c", moments.means, moments.means).max()))
    by = None
    if moments.scatter is not None:
        by = nc1(moments.pooled(within), centred, between, size=size)
    return {
        "nc1": by,
        "nc1_ratio": nc1_ratio(variances, centred, within=within[there], between=between),
        "cdnv": cdnv(variances, centred, power=power) if len(there) <= PAIRS else None,
        "effective_rank": effective_rank(centred),
    }


def _classes(moments: ClassMoments, means: Vectors, w: Vectors | None) -> Classes:
    there = moments.there
    return Classes(
        numbers=there, counts=moments.counts[there], variances=moments.traces[there] / moments.counts[there],
        mean_norms=means.norms, classifier_norms=None if w is None else w.norms,
        alignment=None if w is None else alignment(w, means),
    )  # fmt: skip


def _minority(moments: ClassMoments, means: Vectors, w: Vectors | None) -> Minority | None:
    counts = moments.counts[moments.there].astype(np.float64)
    if counts.min() == counts.max():
        return None
    small = counts < math.sqrt(counts.min() * counts.max())
    few, many = np.flatnonzero(small), np.flatnonzero(~small)

    def index(vectors: Vectors) -> float:
        return group_cosine(vectors, few) - group_cosine(vectors, many)

    return Minority(
        classes=tuple(moments.there[few].tolist()), collapse=None if w is None else index(w), means=index(means)
    )


def _against(means: Vectors, w: Vectors | None, target: Geometry) -> Comparison:
    if target.classes != len(means):
        raise SettingError(
            "against", f"{target.name} has {target.classes} classes", expected=f"the {len(means)} that occur",
            fix="make it from the counts of those classes alone",
        )  # fmt: skip
    return Comparison(
        means=apart(means, means, target.means),
        classifiers=None if w is None or target.classifiers is None else apart(w, w, target.classifiers),
        logits=None if w is None or target.logits is None else apart(w, means, target.logits),
    )


def _plain(value: Any) -> Any:
    """JSON's own types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
