"""DAREx Eq. 5: the closed form against a fine scan, and what is wrong with it."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deltagram.arrays import F64
from deltagram.delta.bounds import phi
from deltagram.delta.equation5 import per_layer_q, per_row_q, published_code_q


def bracket(c: F64, q: F64, *, keep: float, eta: float, gamma: float) -> F64:
    """The size of the bracket of Eq. 5 for one neuron, straight from the paper."""
    drift = eta * (1 - keep / q) * c.sum()
    return np.asarray(np.abs(math.log(2 / gamma) + drift + eta**2 * phi(keep) * (c**2).sum() / (4 * q**2)))


rows = hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1, 1, allow_subnormal=False))


@given(rows, st.sampled_from([0.01, 0.1, 0.5, 0.7]), st.sampled_from([0.1, 1.0, 30.0]), st.sampled_from([0.05, 0.5]))
@settings(max_examples=300, deadline=None)
def test_the_closed_form_is_never_beaten_by_a_fine_scan(c: F64, keep: float, eta: float, gamma: float) -> None:
    found = per_row_q(c[np.newaxis], keep=keep, eta=eta, gamma=gamma)
    grid = 1 / np.linspace(1 / 0.999, 1 / keep, 20_001)
    sizes = bracket(c, grid, keep=keep, eta=eta, gamma=gamma)
    assert keep * (1 - 1e-15) <= found[0] <= 0.999
    largest = math.log(2 / gamma) + 2 * eta * np.abs(c).sum() / keep + eta**2 * (c**2).sum() / keep**2
    assert bracket(c, found, keep=keep, eta=eta, gamma=gamma)[0] <= sizes.min() + 1e-14 * largest


def test_a_very_negative_sum_has_its_zero_below_the_cap() -> None:
    c = np.full((1, 2000), -0.01)
    found = per_row_q(c, keep=0.1, eta=3.0)
    assert 0.1 < found[0] < 0.2
    assert bracket(c[0], found, keep=0.1, eta=3.0, gamma=0.05)[0] < 1e-12


def test_neurons_with_no_positive_sum_run_to_the_cap() -> None:
    c = np.random.default_rng(0).standard_normal((400, 300)) * 1e-3
    found = per_row_q(c, keep=0.01, eta=0.37)
    assert np.all(found[c.sum(1) <= 0] == pytest.approx(0.999))
    assert 0.4 < np.mean(c.sum(1) <= 0) < 0.6
    assert per_layer_q(c, keep=0.01, eta=0.37) == pytest.approx(found.mean())
    assert per_row_q(np.zeros((1, 5)), keep=0.01, eta=1.0) == pytest.approx(0.01)


@pytest.mark.parametrize("deviation", [3e-5, 3e-4, 3e-3])
@pytest.mark.parametrize("eta", [0.37, 1.0])
def test_the_published_divisors_come_from_rounding(deviation: float, eta: float) -> None:
    """At p = .99 exact arithmetic all but erases a delta, where half precision stops at a small q."""
    c = np.random.default_rng(1).standard_normal((384, 768)) * deviation
    assert per_layer_q(c, keep=0.01, eta=eta) > 0.4
    assert 0.01 <= published_code_q(c, keep=0.01, eta=eta) < 0.1


def test_half_precision_stops_where_the_squares_vanish() -> None:
    """Squares of terms below 2^-12.5 underflow to 0: with sums of 0, the first step cannot fall."""
    c = np.tile([1e-4, -1e-4], (8, 50))
    assert published_code_q(c, keep=0.01, eta=1.0) == pytest.approx(0.011)
    assert published_code_q(100 * c, keep=0.01, eta=1.0) > 0.05
    assert published_code_q(100 * c, keep=0.01, eta=1.0, most=0.03) == pytest.approx(0.03)


@pytest.mark.parametrize("solve", [per_layer_q, published_code_q])
def test_settings_out_of_range_are_refused(solve: Callable[..., float]) -> None:
    c = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"between 0 and the cap 0\.5, not 0\.6"):
        solve(c, keep=0.6, eta=1.0, most=0.5)
    with pytest.raises(ValueError, match="eta is positive, not 0"):
        solve(c, keep=0.1, eta=0.0)
    with pytest.raises(ValueError, match="gamma is a probability between 0 and 1, not 2"):
        solve(c, keep=0.1, eta=1.0, gamma=2.0)
