"""The ridge of the theory in terms of what a user sets, the ridges at which classes merge, and the law near zero."""

from typing import Literal

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.predict import margin_solution
from deltagram.geometry.problem import Problem


def ridge_of(
    problem: Problem,
    *,
    weight_decay: float,
    feature_decay: float | None,
    reduction: Literal["mean", "sum"] = "mean",
) -> float:
    """The ridge of `path` that these decays make: `samples sqrt(weight_decay feature_decay)` for a mean.

    A decay d adds `d / 2 ||.||^2` to the loss, as torch's optimisers do (`weight_decay=d`); `feature_decay` is that of
    free features, one vector a sample. torch's `weight=` with a mean divides by the weights' sum, so the samples count
    as `sum_i weight[y_i]`; with mini-batches that holds on average only. Under "sum" the loss is not divided.

    Raises SettingError without `feature_decay`: a network penalises its layers, not its features, and no formula gives
    the one from the other. `ridge` may be fitted instead.
    """
    if feature_decay is None:
        raise SettingError(
            "feature_decay", "is missing: a network without decay on its features has no ridge of this theory",
            fix="give it for features that are free and penalised, or give a ridge and call it a fit",
        )  # fmt: skip
    for name, value in (("weight_decay", weight_decay), ("feature_decay", feature_decay)):
        if not (np.isfinite(value) and value > 0):
            raise SettingError(name, f"{value:g}", expected="a positive number")
    samples = float(problem.counts @ problem.weight) if reduction == "mean" else 1.0
    return samples * float(np.sqrt(weight_decay * feature_decay))


def merges_from(problem: Problem) -> F64:
    """The ridge from which a class merges with others of its kind, (class): `weight class_scale label_scale sqrt(n)`.

    Two or more classes with the same count and parameters have one classifier and one class mean exactly from this
    ridge on; below it they are told apart. Offsets do not move it. NaN for a class that is alone of its kind. Found by
    the stationarity of `path`: the gradient inside the group has the norm `ridge` only below it.
    """
    fields = np.stack([problem.counts, problem.class_scale, problem.label_scale, problem.weight, problem.offset], 1)
    _, member, sizes = np.unique(fields, axis=0, return_inverse=True, return_counts=True)
    found: F64 = problem.weight * problem.class_scale * problem.label_scale * np.sqrt(problem.counts)
    alone: F64 = np.where(sizes[member.reshape(-1)] > 1, found, np.nan)
    return alone


def near_zero(problem: Problem, ridge: float) -> F64:
    """What the margins grow to as the ridge vanishes, (class, class): of class y against c in row c, NaN for itself.

    `label_scale_y (class_scale_y z_y - class_scale_c z_c) -> log(weight_y class_scale_c label_scale_y sqrt(n_y) /
    (ridge |B_cy|)) + offset_c - offset_y`, B the polar factor of the limit. What is left out is the drift of B, itself
    of order 1 / log(1 / ridge): slow. Forms k x k entries.
    """
    if not (np.isfinite(ridge) and ridge > 0):
        raise SettingError("ridge", f"{ridge:g}", expected="a positive number")
    polar = margin_solution(problem).polar().dense()
    np.fill_diagonal(polar, np.nan)
    by = problem.weight * problem.label_scale * np.sqrt(problem.counts)
    size = problem.class_scale[:, None] * by / (ridge * np.abs(polar))
    margins: F64 = np.log(size) + problem.offset[:, None] - problem.offset
    return margins
