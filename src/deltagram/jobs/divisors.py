"""Divisors of a pruned delta on the bench: one constant quickly, the same finely, and one a tensor by gradient."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from deltagram.delta.stored import Pruned
from deltagram.delta.sweep import Tried, best, sweep
from deltagram.jobs.bench import Bench
from deltagram.progress import SILENT, Progress
from deltagram.store.tensors import PrunedTensor
from deltagram.training import distil
from deltagram.training.trial import Trial

QUICK: Final = (1.0, 1.4, 2.0, 2.8, 4.0, 6.0, 9.0, 14.0)
_STEPS: Final = 80
_MOST: Final = 16
Family = Callable[[float], dict[str, float]]


def family(tensors: Mapping[str, PrunedTensor]) -> Family:
    """Divisors as a function of one ratio, 1 being the default of every tensor (DARE's, for random masks).

    A tensor that keeps a share s at random is divided by s + c (1 - s), with one c for all: the closed form q* = (1-p)
    + p Q/S^2 with a common Q/S^2. What is kept whole stays as it is, and c = (ratio - 1) x the mean share, so that at
    one rate all divisors are about `ratio` times DARE's. Listed entries are divided by the square root of the ratio.
    """
    size = sum(tensor.common.size for tensor in tensors.values())
    mean = sum(tensor.mask.keep for tensor in tensors.values()) / size

    def divisors(ratio: float) -> dict[str, float]:
        found = {}
        for name, tensor in tensors.items():
            default = tensor.default_divisor
            kept = tensor.mask.keep / tensor.common.size
            chosen = default == 1 and kept < 1
            found[name] = float(np.sqrt(ratio)) if chosen else default + (ratio - 1) * mean * (1 - default)
        return found

    return divisors


def quick(bench: Bench, trial: Trial, divide: Family) -> tuple[float, float]:
    """The ratio of the least output change, of those up to the first that is worse, and that change; it is set."""
    tried: list[Tried] = []
    for ratio in QUICK:
        trial.set(divide(ratio))
        tried.append(Tried(knob=ratio, error=bench.change()))
        if len(tried) > 1 and tried[-1].error > tried[-2].error:
            break
    chosen = best(tried)
    trial.set(divide(chosen.knob))
    return chosen.knob, chosen.error


def fine(bench: Bench, trial: Trial, divide: Family, *, near: float) -> float:
    """A finer search by output change around a ratio that `quick` found; set on the model."""
    coarse = tuple(ratio for ratio in QUICK if near / 2 < ratio < near * 2)

    def error(ratio: float) -> float:
        trial.set(divide(ratio))
        return bench.change()

    chosen = best(sweep(error, coarse=coarse, most=len(coarse) + 6)).knob
    trial.set(divide(chosen))
    return chosen


def distilled(
    bench: Bench, trial: Trial, start: Mapping[str, float], *, progress: Progress = SILENT
) -> dict[str, float]:
    """One divisor a tensor, fitted by gradient to what the fine-tuned model says of the fitted texts; they are set."""
    steps, found = max(_STEPS, len(bench.fitted)), dict(start)
    for step, _, divisors in distil.distil(
        bench.run, trial, bench.fitted, bench.expected.targets, start=start, steps=steps
    ):
        found = {name: float(divisor) for name, divisor in divisors.items()}
        progress.advance("distilling scales", step, steps)
    trial.set(found)
    return found


def default_of(stored: Mapping[str, Pruned], tensors: Mapping[str, PrunedTensor]) -> dict[str, float]:
    """The divisor of every stored tensor unless told."""
    return {name: tensors[name].default_divisor for name in stored}
