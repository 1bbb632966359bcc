"""`predict`: class counts and a loss's parameters to the geometry that training approaches."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from deltagram.errors import SettingError
from deltagram.geometry import predict as closed
from deltagram.geometry import ridge as ridges
from deltagram.geometry.gram import Geometry, compare
from deltagram.geometry.path import finite_ridge
from deltagram.geometry.problem import Problem
from deltagram.geometry.summary import rows
from deltagram.geometry.tune import TUNINGS, Tuning
from deltagram.geometry.wordcontext import WordContext
from deltagram.jobs.contrastshape import LOSSES as CONTRASTIVE
from deltagram.jobs.contrastshape import contrastive_prediction
from deltagram.jobs.lossproblem import problem_of
from deltagram.jobs.tokenshape import token_prediction
from deltagram.records import Meter, Record
from deltagram.store.staging import staged_file

_CERTIFIED: Final = 4096  # classes up to which all k^2 multipliers are looked at


def predict(
    counts: ArrayLike | None = None,
    *,
    tokens: Path | None = None,
    loss: str = "ce",
    gamma: float | None = None,
    tau: float | None = None,
    class_scale: ArrayLike | None = None,
    label_scale: ArrayLike | None = None,
    class_weight: ArrayLike | Literal["balanced"] | None = None,
    ridge: float | None = None,
    weight_decay: float | None = None,
    feature_decay: float | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    free_bias: bool = False,
    dim: int | None = None,
    tune: str | None = None,
    temperature: float | None = None,
    features: str | None = None,
    design: str | None = None,
    copies: ArrayLike | None = None,
    limit: bool = False,
    allow_mismatch: bool = False,
    proxy: bool = False,
    top: int | None = None,
    out: Path | None = None,
    force: bool = False,
) -> Record:
    """Predict classifiers, class means and logits from `counts` samples a class and a loss.

    `loss` is ce, la (offset `tau log prior`), cdt (`class_scale`, or `gamma` for `n^gamma`), ldt (`label_scale`, or
    `gamma`) or vs (class scale and offset). Without a ridge it is the limit of a vanishing one, in closed form; with
    `ridge`, or the decays that make one, the minimum there, with a duality gap. `tune` asks instead for the parameters
    that give a geometry: simplex, alignment, equal-norms or equal-angles. `out` gets the geometry as JSON.

    `loss` scl and scl-prototypes are supervised contrastive, of unit features at a `temperature` (.1), "relu" or "free"
    (`features`): class means alone, with a certificate or the bound they attain. Prototypes are a `design` - etf, of,
    separation or minority:DEGREES - in `copies` (a number, or one a class; minority: their mean), or beyond number with
    `limit`; pairs of design and features that do not go together are refused if not `allow_mismatch`.

    `tokens` instead of counts is a file of next tokens and their contexts (`LabelMatrix.save`): words and contexts of
    the margin program with a certificate, or at a `ridge`, in `dim` dimensions if given; with `proxy` of the centred
    supports, in their `top` largest directions (32) and of any size.

    Raises SettingError for counts, parameters or combinations that make no problem, OutputError for an `out` that is
    there, if not `force`.
    """
    meter = Meter.start()
    told = {
        "loss": loss, "gamma": gamma, "tau": tau, "ridge": ridge, "weight_decay": weight_decay,
        "feature_decay": feature_decay, "reduction": reduction, "free_bias": free_bias, "dim": dim, "tune": tune,
    }  # fmt: skip
    prototypes = {"design": design, "copies": copies, "limit": limit, "allow_mismatch": allow_mismatch}
    if tokens is not None:
        _refuse({
            "counts": counts, **told, "loss": None if loss == "ce" else loss, "ridge": None, "dim": None,
            "reduction": None if reduction == "mean" else reduction, "class_scale": class_scale,
            "label_scale": label_scale, "class_weight": class_weight, "temperature": temperature,
            "features": features, **prototypes,
        }, "next tokens")  # fmt: skip
        shape, numbers = token_prediction(tokens, ridge=ridge, proxy=proxy, dim=dim, top=top)
        taken = {"tokens": str(tokens), "ridge": ridge, "proxy": proxy, "dim": dim, "top": top}
        return _written(
            shape, Record(job="predict", settings=taken, numbers=numbers | meter.numbers()), out, force=force
        )
    _refuse({"proxy": proxy, "top": top}, "class counts: give tokens")
    if counts is None:
        raise SettingError("counts", "are missing", expected="samples a class, or tokens with supports")
    if loss in CONTRASTIVE:
        _refuse({**told, "loss": None, "reduction": None, "dim": None, "class_scale": class_scale,
                 "label_scale": label_scale, "class_weight": class_weight}, loss)  # fmt: skip
        geometry, numbers, taken = contrastive_prediction(
            counts, loss=loss, temperature=temperature, features=features, dim=dim, given=prototypes
        )
        numbers |= _looked_at(geometry) | {"merges_from": None, "merged": None} | meter.numbers()
        told |= taken | {"limit": limit, "allow_mismatch": allow_mismatch}
        return _written(geometry, _record(told, geometry.counts, numbers), out, force=force)
    _refuse({"temperature": temperature, "features": features, **prototypes}, loss)
    if tune is not None:
        tuning = _tuned(tune, counts, loss=loss, given=(gamma, tau, class_scale, label_scale, class_weight))
        problem = tuning.problem
    else:
        tuning = None
        problem = problem_of(
            counts, loss=loss, gamma=gamma, tau=tau, class_scale=class_scale, label_scale=label_scale,
            class_weight=class_weight,
        )  # fmt: skip
    if ridge is None and (weight_decay is not None or feature_decay is not None):
        ridge = _ridge(problem, weight_decay, feature_decay, reduction)
    elif ridge is not None and (weight_decay is not None or feature_decay is not None):
        raise SettingError("ridge", "together with decays", expected="one of them")
    geometry, numbers = _predicted(problem, ridge=ridge, free_bias=free_bias, dim=dim)
    numbers |= _looked_at(geometry) | _merging(problem, ridge) | _told(tuning) | meter.numbers()
    return _written(geometry, _record(told, problem.counts, numbers), out, force=force)


def _refuse(given: Mapping[str, Any], loss: str) -> None:
    """Raises SettingError for a parameter of other losses."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise SettingError(name, f"is not a parameter of {loss}")


def _record(told: Mapping[str, Any], counts: Any, numbers: dict[str, Any]) -> Record:
    return Record(job="predict", settings={**told, "counts": _shown(counts)}, numbers=numbers)


def _written(geometry: Geometry | WordContext, record: Record, out: Path | None, *, force: bool) -> Record:
    """The record, with the geometry in `out` if that is given."""
    if out is not None:
        with staged_file(out, force=force) as place:
            place.write_text(json.dumps({"record": record.model_dump(), "geometry": geometry.data()}) + "\n", "utf-8")
    return record


def _tuned(tune: str, counts: ArrayLike, *, loss: str, given: tuple[Any, ...]) -> Tuning:
    if tune not in TUNINGS:
        raise SettingError("tune", repr(tune), expected=", ".join(TUNINGS))
    if loss != "ce" or any(value is not None for value in given):
        raise SettingError("tune", "together with a loss or its parameters", fix="it chooses them: give counts alone")
    return TUNINGS[tune](counts)


def _ridge(
    problem: Problem, weight_decay: float | None, feature_decay: float | None, reduction: Literal["mean", "sum"]
) -> float:
    if weight_decay is None:
        raise SettingError("feature_decay", "without a weight decay", fix="give both")
    return ridges.ridge_of(problem, weight_decay=weight_decay, feature_decay=feature_decay, reduction=reduction)


def _predicted(
    problem: Problem, *, ridge: float | None, free_bias: bool, dim: int | None
) -> tuple[Geometry, dict[str, Any]]:
    """The geometry, and what shows that it is optimal."""
    scales = (problem.class_scale, problem.label_scale)
    if free_bias:
        if ridge is not None or any(np.ptp(scale) > 0 for scale in scales):
            raise SettingError("free_bias", "with a ridge or scales", expected="plain cross-entropy without a ridge")
        geometry, bias = closed.free_bias(problem.counts, dim=dim)
        return geometry, {"bias": bias.tolist()}
    if ridge is None:
        settings = {"class_scale": problem.class_scale, "label_scale": problem.label_scale}
        plain = all(np.ptp(scale) == 0 for scale in scales)
        name = "seli" if plain else "cross-entropy with multipliers"
        geometry = closed.cross_entropy(problem.counts, **settings, dim=dim, name=name)
        if problem.classes > _CERTIFIED:
            return geometry, {}
        proof = closed.certificate(problem.counts, **settings)
        return geometry, {"certificate": asdict(proof) | {"gap": proof.gap, "holds": proof.holds}}
    closed.enough_dimensions(dim, problem.classes)
    geometry, proof_at = finite_ridge(problem, ridge)
    return geometry, {"optimality": asdict(proof_at) | {"gap": proof_at.gap}, "ridge": ridge}


def _looked_at(geometry: Geometry) -> dict[str, Any]:
    """Rows by count, and distances to the named geometries."""
    return {
        "name": geometry.name, "classes": geometry.classes, "samples": float(geometry.counts.sum()),
        "conventions": dict(geometry.conventions), "rows": [asdict(row) for row in rows(geometry)],
        "distance": {name: asdict(compare(geometry, of(geometry.counts))) for name, of in closed.TARGETS.items()},
    }  # fmt: skip


def _merging(problem: Problem, ridge: float | None) -> dict[str, Any]:
    """From which ridge classes of one kind are one."""
    merging = ridges.merges_from(problem)
    least = np.nanmin(merging) if np.isfinite(merging).any() else None
    return {
        "merges_from": None if least is None else float(least),
        "merged": None if ridge is None else int((merging <= ridge).sum()),
    }


def _told(tuning: Tuning | None) -> dict[str, Any]:
    """What a tuning chose, in words and numbers."""
    if tuning is None:
        return {}
    problem = tuning.problem
    return {
        "tuning": {
            "wanted": tuning.wanted, "loss": tuning.loss, "reached": tuning.reached, "price": tuning.price,
            "class_scale": _shown(problem.class_scale), "label_scale": _shown(problem.label_scale),
            "weight": _shown(problem.weight),
        }
    }  # fmt: skip


def _shown(values: Any) -> list[float]:
    return [float(value) for value in values]
