"""Metrics against slow definitions, and the recipe's learning rate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltagram.training.metrics import METRICS
from deltagram.training.recipe import SCHEDULES, Recipe

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def _accuracy(pairs: list[tuple[int, int]]) -> float:
    return sum(a == b for a, b in pairs) / len(pairs)


def _balanced(pairs: list[tuple[int, int]]) -> float:
    classes = {a for a, _ in pairs}
    return sum(sum(a == b == c for a, b in pairs) / sum(a == c for a, _ in pairs) for c in classes) / len(classes)


def _f1(pairs: list[tuple[int, int]]) -> float:
    found = []
    for c in {c for pair in pairs for c in pair}:
        right = sum(a == b == c for a, b in pairs)
        found.append(2 * right / (sum(a == c for a, _ in pairs) + sum(b == c for _, b in pairs)))
    return sum(found) / len(found)


def _matthews(pairs: list[tuple[int, int]]) -> float:
    """The correlation of centred one-hot rows."""
    true, guess = (np.eye(4)[[pair[i] for pair in pairs]] for i in (0, 1))
    true, guess = true - true.mean(0), guess - guess.mean(0)
    if not true.any():
        return math.nan
    return float((true * guess).sum() / math.sqrt((true**2).sum() * (guess**2).sum())) if guess.any() else 0.0


SLOW = {"accuracy": _accuracy, "balanced-accuracy": _balanced, "f1": _f1, "matthews": _matthews}


@pytest.mark.parametrize("name", METRICS)
@given(pairs=PAIRS)
def test_a_metric_is_its_definition(name: str, pairs: list[tuple[int, int]]) -> None:
    true, guess = (np.array([pair[i] for pair in pairs], np.int64) for i in (0, 1))
    # sums of at most 40 numbers below 1600
    assert METRICS[name](true, guess) == pytest.approx(SLOW[name](pairs), rel=1e-12, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(steps=st.integers(1, 200), warmup=st.floats(0, 1))
def test_the_rate_rises_once_and_never_again(schedule: str, steps: int, warmup: float) -> None:
    recipe = Recipe(schedule=schedule, warmup=warmup, learning_rate=2.0)
    rates = [recipe.rate(step, steps=steps) for step in range(steps)]
    assert all(0 < rate <= 2 for rate in rates)
    warm = math.ceil(warmup * steps)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    if warm:
        assert rates[warm - 1] == 2
