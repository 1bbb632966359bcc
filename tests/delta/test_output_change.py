"""A layer's output change: sums against slow loops, and the prediction against all masks."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from deltagram.arrays import F32, F64
from deltagram.delta.output_change import GAMMA, Divided, Layer, Sums, measure
from enumeration import independent

RNG = np.random.default_rng(7)
SHAPE = (2, 3)
WEIGHT, DELTA = (RNG.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
INPUTS = RNG.standard_normal((5, 3)).astype(np.float32)
CLOSE = 64 * float(np.finfo(np.float32).eps)
DIVISORS: dict[str, F64] = {
    "one": np.full((1, 1), 0.6), "row": np.array([[0.4], [0.9]]), "column": np.array([[0.4, 0.8, 1.3]]),
}  # fmt: skip


def layer(mask: NDArray[np.float64], keep: float | None = 0.3) -> Layer:
    kept: F32 = (DELTA * mask.reshape(SHAPE)).astype(np.float32)
    return Layer(weight=WEIGHT, delta=DELTA, kept=kept, keep=keep)


def test_sums_are_those_of_slow_loops() -> None:
    mask = np.array([1.0, 0, 1, 0, 1, 1])
    sums, found = measure(layer(mask), INPUTS, DIVISORS)
    terms = DELTA[np.newaxis] * INPUTS[:, np.newaxis, :].astype(np.float64)
    row = sums.row(0.3)
    assert (sums.entries, sums.terms) == (10, 30)
    assert row["mean_c"] == pytest.approx(terms.mean(), rel=CLOSE)
    assert row["sd_c"] == pytest.approx(terms.std(), rel=CLOSE)
    assert row["mean_delta"] == pytest.approx(np.abs(DELTA).mean(), rel=CLOSE)
    assert row["rms_squares"] == pytest.approx(math.sqrt((terms**2).sum(-1).mean()), rel=CLOSE)
    assert row["rms_signal"] == pytest.approx(math.sqrt((terms.sum(-1) ** 2).mean()), rel=CLOSE)
    assert row["rms_output"] == pytest.approx(math.sqrt(np.mean((INPUTS @ WEIGHT.T) ** 2)), rel=CLOSE)
    for name, divisor in DIVISORS.items():
        h = (terms - terms * mask.reshape(SHAPE) / divisor).sum(-1)
        said = sums.divided(found[name], 0.3)
        assert said["rms"] == pytest.approx(math.sqrt(np.mean(h**2)), rel=CLOSE)
        assert said["mean_absolute"] == pytest.approx(np.abs(h).mean(), rel=CLOSE)


@pytest.mark.parametrize("name", DIVISORS)
@pytest.mark.parametrize("keep", [0.1, 0.5])
def test_the_prediction_is_the_mean_over_all_masks_and_the_bound_holds(name: str, keep: float) -> None:
    masks, chance = independent(6, keep)
    measured = predicted = beyond = 0.0
    for mask, weight in zip(masks, chance, strict=True):
        sums, found = measure(layer(mask, keep), INPUTS, {name: DIVISORS[name]})
        measured += weight * found[name].square / sums.entries
        predicted = found[name].predicted / sums.entries
        beyond += weight * found[name].beyond / sums.entries
    assert measured == pytest.approx(predicted, rel=CLOSE)
    assert beyond <= GAMMA


def test_the_best_divisor_has_the_least_prediction() -> None:
    grid = np.linspace(0.35, 6, 400)
    sums, found = measure(layer(np.ones(6)), INPUTS, {f"{q}": np.full((1, 1), q) for q in grid})
    predicted = [math.sqrt(found[f"{q}"].predicted / sums.entries) for q in grid]
    row = sums.row(0.3)
    assert row["best_rms"] <= min(predicted) * (1 + CLOSE)
    assert row["best_rms"] == pytest.approx(min(predicted), rel=1e-3)
    assert row["best_divisor"] == pytest.approx(grid[int(np.argmin(predicted))], abs=0.02)


def test_batches_add_up() -> None:
    whole, found = measure(layer(np.ones(6)), INPUTS, DIVISORS)
    sums, parts = Sums(), dict.fromkeys(DIVISORS, Divided())
    for part in (INPUTS[:2], INPUTS[2:2], INPUTS[2:]):
        more, changes = measure(layer(np.ones(6)), part, DIVISORS)
        sums += more
        parts = {name: parts[name] + changes[name] for name in parts}
    assert vars(sums) == pytest.approx(vars(whole), rel=CLOSE)
    assert all(vars(parts[name]) == pytest.approx(vars(found[name]), rel=CLOSE) for name in parts)


def test_of_chosen_entries_nothing_is_predicted() -> None:
    sums, found = measure(layer(np.ones(6), None), INPUTS, DIVISORS)
    assert sums.divided(found["one"], None).keys() == {"rms", "mean_absolute"}
    assert "best_divisor" not in sums.row(None)
