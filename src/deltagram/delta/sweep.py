"""A search along one knob: coarse over the whole range, then fine around the best; every value tried is kept."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deltagram.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A value of the knob and what it led to: an error, the lower the better."""

    knob: float
    error: float


def best(tried: Sequence[Tried]) -> Tried:
    """The least error; of equals the largest knob, as DAREx's Algorithm 2 has it (`error <= err_min`).

    >>> best([Tried(knob=1, error=0.5), Tried(knob=3, error=0.5), Tried(knob=9, error=0.7)]).knob
    3
    """
    return min(tried, key=lambda point: (point.error, -point.knob))


def sweep(error: Callable[[float], float], *, coarse: Sequence[float], most: int) -> list[Tried]:
    """Try every value of `coarse` (ascending), then up to `most` values in all between the neighbours of the best.

    Fine values lie evenly on the scale between the best value's neighbours: by ratio where all are positive, else
    by difference. Returned in the order of the knob. Raises SettingError where an error is not a number.
    """
    found = {knob: _checked(error, knob) for knob in coarse}
    points = [Tried(knob=knob, error=value) for knob, value in found.items()]
    at = list(coarse).index(best(points).knob)
    low, middle, high = coarse[max(0, at - 1)], coarse[at], coarse[min(len(coarse) - 1, at + 1)]
    left = most - len(coarse)
    sides = (
        [(low, middle)] if middle == high else [(middle, high)] if low == middle else [(low, middle), (middle, high)]
    )
    for index, (start, stop) in enumerate(sides):
        count = (left + len(sides) - 1 - index) // len(sides)
        for knob in _between(start, stop, count):
            found.setdefault(knob, _checked(error, knob))
    return [Tried(knob=knob, error=found[knob]) for knob in sorted(found)]


def _between(low: float, high: float, count: int) -> list[float]:
    if count <= 0 or low == high:
        return []
    spaced = np.geomspace(low, high, count + 2) if low > 0 else np.linspace(low, high, count + 2)
    return [float(knob) for knob in spaced[1:-1]]


def _checked(error: Callable[[float], float], knob: float) -> float:
    value = error(knob)
    if not math.isfinite(value):
        raise SettingError("the measure", f"is {value} at {knob:.4g}", fix="check the model and the texts")
    return value
