"""The search along one knob: what it tries, what it takes, what it refuses."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.delta.sweep import Tried, best, sweep
from deltagram.errors import SettingError

COARSE = [1.0, 2.0, 4.0, 8.0, 16.0]


@given(st.floats(1, 16), st.integers(5, 40))
@settings(max_examples=80, deadline=None)
def test_a_valley_is_found_to_the_step_of_the_fine_grid(bottom: float, most: int) -> None:
    calls: list[float] = []

    def error(knob: float) -> float:
        calls.append(knob)
        return abs(math.log(knob / bottom))

    tried = sweep(error, coarse=COARSE, most=most)
    assert len(calls) == len(set(calls)) == len(tried) <= max(most, len(COARSE))
    assert [point.knob for point in tried] == sorted(calls)
    assert set(COARSE) <= set(calls)
    each_side = (most - len(COARSE)) // 2
    step = math.log(2) / (max(0, each_side) + 1)  # between values of the grid, on the scale of logarithms
    assert abs(math.log(best(tried).knob / bottom)) <= step


def test_of_equals_the_largest_knob_is_taken() -> None:
    tried = sweep(lambda knob: max(0.0, knob - 5), coarse=COARSE, most=20)
    flat = [point.knob for point in tried if point.error == 0]
    assert len(flat) > 3
    assert best(tried).knob == max(flat)
    assert best([Tried(knob=1.0, error=-2.0), Tried(knob=0.5, error=-2.0)]).knob == 1.0


def test_a_scale_that_starts_at_zero_is_cut_by_difference() -> None:
    tried = sweep(lambda tau: (tau - 0.05) ** 2, coarse=[0.0, 0.1, 1.0], most=13)
    assert [round(point.knob, 6) for point in tried if point.knob <= 0.1] == [round(0.1 * i / 6, 6) for i in range(7)]
    assert abs(best(tried).knob - 0.05) < 1e-9


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_measure_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(SettingError, match=r"the measure: is (nan|inf) at 4; check the model and the texts"):
        sweep(lambda knob: value if knob == 4 else knob, coarse=COARSE, most=9)
