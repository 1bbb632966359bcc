"""Free features and the ridge path, measured once each: how far W, M and Z are from everything they may tend to."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from deltagram.data.imbalance import long_tail_counts, step_counts
from deltagram.geometry import predict
from deltagram.geometry.gram import Comparison, Geometry, compare
from deltagram.geometry.matrix import distance
from deltagram.geometry.path import finite_ridge
from deltagram.geometry.problem import Problem
from deltagram.papers.bench import Bench
from deltagram.training.freefeatures import FreeFeatures, Method, Snapshot, descend, log_spaced

PARTS: Final = ("w", "m", "z")  # classifiers, class means, logits
SNAPSHOTS: Final = 12
START: Final = 0.1  # of free features without ridge: W^T W - H^T H keeps its first value for ever, so a small one
Row = dict[str, Any]


def counts_of(imbalance: str, *, classes: int, least: int) -> list[int]:
    """Samples a class of "step:R" or "long-tail:R" whose smallest class has `least`, the largest first.

    >>> counts_of("step:10", classes=4, least=5)
    [50, 50, 5, 5]
    """
    kind, _, ratio = imbalance.partition(":")
    make = {"step": step_counts, "long-tail": long_tail_counts}[kind]
    return [int(n) for n in make(classes, largest=round(least * float(ratio)), ratio=float(ratio))]


def loss_of(name: str, counts: Sequence[int], *, gamma: float = 0.5) -> Any:
    """A loss by the name that the claims have for it. Raises ExtraError without torch."""
    from deltagram import losses  # noqa: PLC0415 - imports torch

    made: Mapping[str, Callable[[], Any]] = {
        "ce": losses.CrossEntropy,
        "weighted": lambda: losses.CrossEntropy(class_counts=counts, class_weight="balanced"),
        "la": lambda: losses.LogitAdjusted(counts),
        "cdt": lambda: losses.CDT(counts, gamma=gamma),
        "ldt": lambda: losses.LDT(counts, gamma=gamma),
        "ldt-weights": lambda: losses.LDT.symmetric(counts),
        "vs": lambda: losses.VS(counts, gamma=gamma),
    }
    return made[name]()


def parts(found: Comparison, tail: str = "") -> dict[str, float]:
    """Distances of W, M and Z by those letters."""
    told = (found.classifiers, found.means, found.logits)
    return {f"{name}{tail}": float("nan") if value is None else value for name, value in zip(PARTS, told, strict=True)}


def to_limits(geometry: Geometry, problem: Problem) -> dict[str, float]:
    """Distances to the loss's own limit, to SELI, to the simplex, and of logits to those of a free bias."""
    n = problem.counts
    own = predict.cross_entropy(n, class_scale=problem.class_scale, label_scale=problem.label_scale)
    etf = predict.etf(len(n))
    found = parts(compare(geometry, own), "_limit") | parts(compare(geometry, predict.seli(n)), "_seli")
    found |= parts(compare(geometry, etf), "_etf")
    logits, biased = geometry.logits, predict.free_bias(n)[0].logits
    if logits is not None and biased is not None:
        found["z_free_bias"] = distance(logits, biased)
    return found


def centring(problem: Problem) -> Any:
    """Remark 2 of arXiv 2303.07608: the plain mean of class means, or the one weighted by the label's multipliers."""
    return "class_mean" if np.ptp(problem.label_scale) == 0 else problem.label_scale


def point(
    bench: Bench, *, loss: str, counts: Sequence[int], ridge: float, seed: int, gamma: float = 0.5
) -> Row:  # fmt: skip
    """Free features trained to the minimum at a ridge: distances to the path at that ridge, and what they may be.

    `w`, `m`, `z` to the certified minimum of `geometry.path`; `w_allowed` and so on what the duality gap of the trained
    point allows; the rest as `to_limits`, with means centred by `centring`.
    """
    told = {"free": "point", "loss": loss, "gamma": gamma, "counts": list(counts), "ridge": ridge, "seed": seed}
    return told | bench.notes.once(told, lambda: _point(told))


def _point(told: Mapping[str, Any]) -> dict[str, float]:
    from deltagram.training.stationary import allowed, minimise  # noqa: PLC0415 - scipy is slow to import

    counts, ridge = told["counts"], told["ridge"]
    model = FreeFeatures(
        loss=loss_of(told["loss"], counts, gamma=told["gamma"]), counts=counts, dim=2 * len(counts),
        weight_decay=ridge, feature_decay=ridge, reduction="sum", seed=told["seed"],
    )  # fmt: skip
    found, problem = minimise(model, tolerance=1e-9), model.problem
    predicted, optimality = finite_ridge(problem, ridge)
    geometry = found.snapshot.geometry()
    own = parts(compare(geometry, predicted)) | parts(allowed(problem, predicted, ridge, found.gap), "_allowed")
    few = np.flatnonzero(problem.counts == problem.counts.min())
    at, to = few[:1], few[1:2] if len(few) > 1 else few[:1]
    return own | to_limits(found.snapshot.geometry(centring(problem)), problem) | {
        "minority_cosine": float(geometry.classifier_cosines(at, to)[0, 0]), "spread": found.snapshot.spread,
        "gradient": found.gradient, "gap": found.gap, "path_gap": optimality.gap,
        "norm_power": _power(problem.counts, geometry.mean_norms()),
        "mean_angles": float(np.abs(_off(geometry.mean_cosines()) + 1 / (len(counts) - 1)).max()),
        "alignment": float(geometry.alignment().min()),
    }  # fmt: skip


def _power(counts: Any, norms: Any) -> float:
    """The exponent p of norms in proportion to n^p; 0 for equal counts."""
    return float(np.polyfit(np.log(counts), np.log(norms), 1)[0]) if np.ptp(counts) else 0.0


def _off(square: Any) -> Any:
    return square[~np.eye(len(square), dtype=bool)]


def on_path(bench: Bench, *, loss: str, counts: Sequence[int], ridge: float, gamma: float = 0.5) -> Row:
    """The certified minimum at a ridge that no training reaches: `to_limits`, means as they are."""
    told = {"free": "path", "loss": loss, "gamma": gamma, "counts": list(counts), "ridge": ridge}

    def measure() -> dict[str, float]:
        model = FreeFeatures(loss=loss_of(loss, counts, gamma=gamma), counts=counts, dim=len(counts))
        found, optimality = finite_ridge(model.problem, ridge)
        return to_limits(found, model.problem) | {"path_gap": optimality.gap}

    return told | bench.notes.once(told, measure)


def trajectory(
    bench: Bench, *, loss: str, counts: Sequence[int], method: Mapping[str, Any], ridge: float, seed: int,
    epochs: int, gamma: float = 0.5,
) -> list[Row]:  # fmt: skip
    """Free features on their way: a row a snapshot, `w`, `m`, `z` to the path at the ridge, or, without, to the limit.

    Losses are summed over samples, so that a feature moves alike whatever the number of samples.
    """
    told = {
        "free": "trajectory", "loss": loss, "gamma": gamma, "counts": list(counts), "ridge": ridge, "seed": seed,
        "epochs": epochs, "method": dict(method), "start": START,
    }  # fmt: skip
    return [told | row for row in bench.notes.once(told, lambda: {"rows": _trajectory(told)})["rows"]]


def _trajectory(told: Mapping[str, Any]) -> list[Row]:
    counts, ridge = told["counts"], told["ridge"]
    model = FreeFeatures(
        loss=loss_of(told["loss"], counts, gamma=told["gamma"]), counts=counts, dim=2 * len(counts),
        weight_decay=ridge, feature_decay=ridge, reduction="sum", scale=told["start"], seed=told["seed"],
    )  # fmt: skip
    problem = model.problem
    target = finite_ridge(problem, ridge)[0] if ridge else None

    def row(at: Snapshot) -> Row:
        limits = to_limits(at.geometry(centring(problem)), problem)
        own = {name: limits[f"{name}_limit"] for name in PARTS}
        if target is not None:
            own = parts(compare(at.geometry(), target))
        return {"epoch": at.epoch, "objective": at.objective, **own, **limits}

    return [row(at) for at in descend(model, Method(**told["method"]), at=log_spaced(told["epochs"], SNAPSHOTS))]


def slope(rows: Sequence[Row], part: str) -> float:
    """Of the logarithm of a distance against that of the epoch, over the later half of the snapshots; < 0 falls."""
    late = rows[len(rows) // 2 :]
    return float(np.polyfit(np.log([row["epoch"] for row in late]), np.log([row[part] for row in late]), 1)[0])
