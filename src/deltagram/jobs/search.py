"""The divisor q of DAREx from what a person has: texts (`output`, `distil`) or labelled texts (`labels`)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from deltagram.arrays import F64
from deltagram.delta.moments import best_divisor
from deltagram.delta.sweep import Tried, best, sweep
from deltagram.errors import SettingError
from deltagram.jobs.evidence import Evidence, calibration_batches, labelled
from deltagram.jobs.variant import Variant
from deltagram.progress import SILENT, Progress
from deltagram.store.masks import ListedMask
from deltagram.store.scales import RowDtype
from deltagram.training import activations, distil, outputs
from deltagram.training.loaded import Batch
from deltagram.training.metrics import PERPLEXITY
from deltagram.training.trial import Divisors

RULES: Final = ("output", "output-layers", "labels", "labels-layers", "distil", "distil-rows")
MOST: Final = 30  # values of the knob that a search tries
_RATIOS: Final = np.geomspace(1, 32, 14)  # of DARE's divisor, for random masks
_RATIOS_BOTH: Final = np.geomspace(0.25, 4, 13)  # of 1, for chosen entries, and of fitted divisors
_SHARES: Final = np.concatenate([[0.0], np.geomspace(0.004, 2, 13)])  # tau
_DISTIL_STEPS: Final = 80


@dataclass(frozen=True, kw_only=True)
class Found:
    """Divisors by tensor, and the record of the search: rule, curve, forward passes, texts."""

    divisors: Mapping[str, F64]
    numbers: Mapping[str, Any] = field(default_factory=dict)


def narrowest(divisors: Mapping[str, F64]) -> RowDtype:
    """How divisors by row are stored: in two bytes, unless one of them would not survive it."""
    with np.errstate(over="ignore"):
        narrow = [d.astype(np.float16) for d in divisors.values() if d.ndim]
    return "F16" if all(np.isfinite(d).all() and (d > 6.2e-5).all() for d in narrow) else "F32"


def check_rule(rule: str, evidence: Evidence, *, tuned: bool) -> None:
    """Raise SettingError, before any work, for a rule that is none or whose texts or models are missing."""
    if rule not in RULES:
        raise SettingError("--divide-by", f"{rule!r} is unknown", expected=f"dare or a number or {' or '.join(RULES)}")
    if rule.startswith("labels") and evidence.labels is None:
        raise SettingError(f"--divide-by {rule}", "needs labelled texts", fix="give them with --labels FILE")
    if not rule.startswith("labels") and evidence.calibration is None:
        raise SettingError(f"--divide-by {rule}", "needs texts", fix="give them with --calibration FILE")
    if not tuned and rule != "labels":
        raise SettingError(f"--divide-by {rule}", "needs the fine-tuned model", fix="give it with --tuned MODEL")
    evidence.check_readable()


def search(
    variant: Variant,
    rule: str,
    evidence: Evidence,
    *,
    start: Mapping[str, F64] | None = None,
    progress: Progress = SILENT,
) -> Found:
    """Divisors by one of `RULES`; leaves the model with some pruned delta on it.

    Searches look at multiples of `start`, or of each tensor's default divisor.

    `output`: one factor, the least mean absolute change of the last hidden states from the fine-tuned model's;
    `labels`: one factor, the best in a metric on labelled texts; `...-layers`: (1-p) + tau p Q_l / S_l^2 for layer l
    with one tau, 0 (DARE) included; `distil`, `distil-rows`: fitted by gradient, one a tensor or one a row. Of equals
    the larger divisor is taken. DAREx (arXiv 2410.09344), Algorithm 2.
    """
    check_rule(rule, evidence, tuned=variant.tuned is not None)
    if rule.startswith("distil"):
        return _distilled(variant, rule, evidence, start, progress)
    measure = _by_labels(variant, evidence) if rule.startswith("labels") else _by_output(variant, evidence)
    family = _layers(variant, measure.batches) if rule.endswith("-layers") else _one(variant, start)
    return _swept(variant, rule, measure, family, progress)


@dataclass(frozen=True, kw_only=True)
class _Measure:
    name: str
    batches: list[Batch]
    texts: int
    error: Callable[[], float]
    passes: int
    sign: float = 1.0  # what is shown is sign x error


@dataclass(frozen=True, kw_only=True)
class _Family:
    """Divisors as a function of one knob, the values to try first, and the forward passes it took to get there."""

    divisors: Callable[[float], Divisors]
    coarse: tuple[float, ...]
    passes: int = 0


def _swept(variant: Variant, rule: str, measure: _Measure, family: _Family, progress: Progress) -> Found:
    trial, done = variant.trial(), 0

    def error(knob: float) -> float:
        nonlocal done
        trial.set(family.divisors(knob))
        done += 1
        progress.advance("searching q", done, MOST)
        return measure.error()

    tried = sweep(error, coarse=family.coarse, most=MOST)
    chosen = best(tried)
    trial.set(family.divisors(chosen.knob))
    numbers = {
        "rule": rule, "measure": measure.name, "texts": measure.texts, "knob": chosen.knob,
        "value": measure.sign * chosen.error,
        "curve": [_point(variant, family, point, measure.sign) for point in tried],
        "forward_passes": len(tried) + measure.passes + family.passes,
    }  # fmt: skip
    return Found(
        divisors={n: np.asarray(d, np.float64) for n, d in family.divisors(chosen.knob).items()}, numbers=numbers
    )


def _point(variant: Variant, family: _Family, point: Tried, sign: float) -> dict[str, float]:
    """A point of the curve: the knob, the mean divisor over tensors weighted by their entries, what was measured."""
    divisors = family.divisors(point.knob)
    weight = {name: variant.delta.masked[name].common.size for name in divisors}
    mean = sum(weight[n] * float(np.mean(d)) for n, d in divisors.items()) / sum(weight.values())
    return {"knob": point.knob, "divide_by": mean, "value": sign * point.error}


def _by_output(variant: Variant, evidence: Evidence) -> _Measure:
    made = calibration_batches(variant.run, evidence)
    reference = outputs.hidden_states(variant.run, made)
    return _Measure(
        name="output change", batches=made, texts=sum(len(b.samples) for b in made), passes=1,
        error=lambda: outputs.output_change(variant.run, made, reference),
    )  # fmt: skip


def _by_labels(variant: Variant, evidence: Evidence) -> _Measure:
    known = labelled(variant.run, evidence)
    sign = 1.0 if known.metric == PERPLEXITY else -1.0
    return _Measure(name=known.metric, batches=known.batches, texts=known.texts, error=known.error, passes=0, sign=sign)


def _one(variant: Variant, start: Mapping[str, F64] | None) -> _Family:
    """Multiples of one set of divisors; both ways from those that are not DARE's. What is kept whole stays."""
    begin = variant.default_divisors() if start is None else start
    masked = variant.delta.masked
    both = start is not None or any(isinstance(masked[name].mask, ListedMask) for name in begin)
    whole = {name for name in begin if masked[name].mask.keep == masked[name].common.size}
    return _Family(
        divisors=lambda knob: {name: divisor if name in whole else knob * divisor for name, divisor in begin.items()},
        coarse=tuple(float(x) for x in (_RATIOS_BOTH if both else _RATIOS)),
    )


def _layers(variant: Variant, made: list[Batch]) -> _Family:
    """Each layer's closed form; a tensor that is no linear layer takes the mean of the layers' Q / S^2."""
    if len(variant.pruned) < len(variant.stored) or any(
        isinstance(kept.mask, ListedMask) for kept in variant.delta.masked.values()
    ):
        fault = "a layer's divisor has a closed form for random masks of differences only"
        raise SettingError("--divide-by", fault, fix="take output or distil")
    found = activations.signals(variant.run, made, variant.differences())
    ratio = {name: signal.spread / signal.square for name, signal in found.items() if signal.square > 0}
    if not ratio:
        raise SettingError(str(variant.delta.path), "moves no linear layer", fix="take output instead")
    mean = float(np.mean(list(ratio.values())))
    share = {name: float(divisor) for name, divisor in variant.default_divisors().items()}

    def divisors(tau: float) -> Divisors:
        return {name: best_divisor(1.0, ratio.get(name, mean), keep=s, tau=tau) for name, s in share.items()}

    return _Family(divisors=divisors, coarse=tuple(float(x) for x in _SHARES), passes=1)


def _distilled(
    variant: Variant, rule: str, evidence: Evidence, start: Mapping[str, F64] | None, progress: Progress
) -> Found:
    """The best single factor first, then gradients from there; fewer texts are gone through more often."""
    made = calibration_batches(variant.run, evidence, most=evidence.fitted)
    expected = distil.targets(variant.run, made)
    begin = _swept(variant, "output", _by_output(variant, evidence), _one(variant, start), progress)
    trial = variant.trial()
    kept = {name: variant.delta.masked[name].mask.keep for name in trial.names}
    rows = {name: trial.rows(name) for name in trial.names}
    by_row = distil.chosen_by_row(rows, kept) if rule == "distil-rows" else frozenset()
    steps = max(_DISTIL_STEPS, len(made))
    curve, fitted = [], begin.divisors
    for step, loss, divisors in distil.distil(
        variant.run, trial, made, expected, start=begin.divisors, steps=steps, by_row=by_row
    ):
        curve.append(loss)
        fitted = divisors
        progress.advance("distilling scales", step, steps)
    trial.set(fitted)
    numbers = {
        "rule": rule, "measure": "distillation loss", "texts": sum(len(b.samples) for b in made),
        "start": begin.numbers,
        "curve": [{"step": step, "value": loss} for step, loss in enumerate(curve, 1)], "value": curve[-1],
        "scales": sum(d.size for d in fitted.values()), "steps": steps,
        "forward_passes": begin.numbers["forward_passes"] + 1 + math.ceil(steps / len(made)),
    }  # fmt: skip
    return Found(divisors=fitted, numbers=numbers)
