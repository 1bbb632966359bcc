"""What a callback makes of a model's head, a batch and its moments; it holds no state."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry import predict
from deltagram.geometry.gram import Geometry, compare
from deltagram.geometry.measure import Collapse, collapse
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.samples import array
from deltagram.geometry.symmetry import Frame

IGNORED: Final = -100
NAMES: Final = ("labels", "label", "target", "targets", "y")


def last_linear(model: Any, head: Any) -> Any:
    """The module `head`, the one of that name, or (None) the last of the model that gives one number a class.

    Raises SettingError where there is none, or it has no weights (class, feature).
    """
    named = dict(model.named_modules())
    if head is None:
        classes = getattr(getattr(model, "config", None), "num_labels", None)
        linear = [m for m in named.values() if getattr(getattr(m, "weight", None), "ndim", 0) == 2]
        fitting = [m for m in linear if getattr(m, "out_features", None) in ({classes} if classes else _sizes(linear))]
        if not fitting:
            raise SettingError("head", "the model has no linear layer with a row a class", fix="name it with head=")
        return fitting[-1]
    module = named.get(head) if isinstance(head, str) else head
    if module is None:
        raise SettingError("head", f"{head!r} is no module of the model", expected=f"one such as {list(named)[-1]!r}")
    if getattr(getattr(module, "weight", None), "ndim", 0) != 2:
        raise SettingError("head", f"is a {type(module).__name__}", expected="a layer with weights (class, feature)")
    return module


def _sizes(linear: Iterable[Any]) -> set[int]:
    return {m.out_features for m in linear if hasattr(m, "out_features")}


def labels_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The labels among a model's arguments, if there are any: by name, also inside one batch that is a mapping."""
    for holder in (kwargs, *(arg for arg in args if isinstance(arg, Mapping))):
        for name in NAMES:
            if holder.get(name) is not None:
                return holder[name]
    return None


def paired(features: Any, labels: Any, mask: Any = None) -> tuple[Any, Any]:
    """Features (sample, feature) and labels (sample) that count, from those of samples or of tokens.

    A head that sees every token of samples with one label each, as in decoders, is read at the last token that `mask`
    (sample, token) has. Raises SettingError where there are not as many of both.
    """
    numbers = array(labels)
    if features.ndim == 3 and numbers.ndim == 1 and mask is not None and mask.shape == features.shape[:2]:
        rows = array(features)
        last = rows.shape[1] - 1 - np.argmax(array(mask)[:, ::-1] != 0, axis=1)
        features = rows[np.arange(len(rows)), last]
    if tuple(features.shape[:-1]) != numbers.shape:
        raise SettingError(
            "features", f"that the head sees are {tuple(features.shape)}, labels are {numbers.shape}",
            expected="a row of features a label", fix="name a head that sees one row a sample",
        )  # fmt: skip
    rows, flat = array(features.reshape(-1, features.shape[-1])), numbers.reshape(-1)
    counted = flat != IGNORED
    return (rows, flat) if counted.all() else (rows[counted], flat[counted])


def values(
    moments: ClassMoments, classifier: Any, *, counts: F64 | None, loss: Any, weighting: str
) -> dict[str, float]:  # fmt: skip
    """Scalars of the classes that occur; angles in degrees, Gram distances 0 (equal) to sqrt 2."""
    found = _collapsed(collapse(moments, classifier=classifier, weighting=weighting))
    found |= _against_predicted(moments, classifier, counts=counts, loss=loss, weighting=weighting)
    return {name: float(value) for name, value in found.items() if value is not None}


def values_against(moments: ClassMoments, target: Geometry, *, weighting: str) -> dict[str, float]:
    """The same without a classifier; class means, not centred, are compared with a geometry of as many classes."""
    found = _collapsed(collapse(moments, weighting=weighting))
    if target.classes == len(moments.there):
        found["gram_distance_predicted_means"] = compare(moments.geometry(centring="none"), target).means
    return {name: float(value) for name, value in found.items() if value is not None}


def _collapsed(measured: Collapse) -> dict[str, float | None]:
    found: dict[str, float | None] = {
        "nc1": measured.nc1, "nc1_ratio": measured.nc1_ratio, "nc3": measured.self_duality,
        "effective_rank": measured.effective_rank,
    }  # fmt: skip
    for name, frame in (("means", measured.means), ("classifiers", measured.classifiers)):
        found |= {} if frame is None else _frame(name, frame)
    if measured.minority is not None:
        found["minority_collapse"] = measured.minority.collapse
    return found


def _frame(name: str, frame: Frame) -> dict[str, float | None]:
    angle = None if frame.cosine_max is None else math.degrees(math.acos(min(1.0, max(-1.0, frame.cosine_max))))
    return {
        f"nc2_{name}": frame.equiangularity, f"norm_cv_{name}": frame.norm_cv, f"min_angle_{name}": angle,
        f"gram_distance_etf_{name}": frame.etf_distance,
    }  # fmt: skip


def _against_predicted(
    moments: ClassMoments, classifier: Any, *, counts: F64 | None, loss: Any, weighting: str
) -> dict[str, float | None]:
    """Distances to the closed form, where there is one: counts of all classes, dimensions enough, no smoothing."""
    there = moments.there
    if counts is None or (counts[there] <= 0).any() or moments.features < len(there) - 1:
        return {}
    if getattr(loss, "label_smoothing", 0.0):
        return {}
    by_class, by_label = (_scale(loss, name, there) for name in ("class_scale", "label_scale"))
    name = "seli" if by_class is None and by_label is None else "predicted"
    target: Geometry = predict.cross_entropy(counts[there], class_scale=by_class, label_scale=by_label)
    centring = None
    if by_label is not None:
        centring = np.zeros(moments.classes)
        centring[there] = by_label
    apart = compare(moments.geometry(classifier, weighting=weighting, centring=centring), target)
    parts = {"means": apart.means, "classifiers": apart.classifiers, "logits": apart.logits}
    return {f"gram_distance_{name}_{part}": value for part, value in parts.items()}


def _scale(loss: Any, name: str, there: Any) -> F64 | None:
    found = getattr(loss, name, None)
    return None if found is None else np.asarray(found.double().cpu().numpy(), np.float64)[there]
