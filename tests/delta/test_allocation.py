"""Sharing a budget out: the closed form against a search, its cap, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltagram.delta.allocation import kept_shares

GROUPS = st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.1, 10)), min_size=1, max_size=6)


def damage_of(shares: np.ndarray, damage: np.ndarray) -> float:
    return float((damage * (1 - shares) / shares).sum())


@given(groups=GROUPS, part=st.floats(0.01, 0.99), seed=st.integers(0, 1 << 16))
def test_no_other_shares_of_the_same_cost_do_less_damage(
    groups: list[tuple[float, float]], part: float, seed: int
) -> None:
    damage, cost = np.array(groups).T
    budget = part * cost.sum()
    found = kept_shares(damage, cost, budget=budget)
    assert (found > 0).all()
    assert (found <= 1).all()
    # Each share is rounded once, so the sum is off by at most an epsilon a group, relative to the budget.
    assert cost @ found == pytest.approx(budget, rel=8 * len(groups) * np.finfo(float).eps)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        other = found * np.exp(rng.normal(0, 0.1, found.size))
        other *= budget / (cost @ other)
        if (other <= 1).all():
            assert damage_of(found, damage) <= damage_of(other, damage) * (1 + 1e-12)


def test_equal_groups_keep_equal_shares_and_more_than_all_is_all() -> None:
    assert kept_shares([2, 2], [3, 3], budget=1.5).tolist() == [0.25, 0.25]
    assert kept_shares([1, 5], [1, 2], budget=30).tolist() == [1, 1]


def test_one_that_does_no_damage_leaves_its_share_to_the_others() -> None:
    found = kept_shares([0, 1], [1, 1], budget=0.2)
    assert 0 < found[0] < 0.001
    assert found[1] > 0.199
    assert kept_shares([0, 0], [2, 2], budget=2).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("damage", "cost", "budget", "says"),
    [
        ([-1.0], [1.0], 1.0, "not negative"),
        ([float("nan")], [1.0], 1.0, "finite"),
        ([1.0], [0.0], 1.0, "positive"),
        ([1.0], [1.0], 0.0, "a budget is positive"),
    ],
)
def test_what_is_no_damage_cost_or_budget(damage: list[float], cost: list[float], budget: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kept_shares(damage, cost, budget=budget)
