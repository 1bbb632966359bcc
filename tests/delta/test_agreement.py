"""The bound on agreement: exact coverage over all outcomes, and scipy's interval."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from deltagram.delta.agreement import lower_bound


@pytest.mark.parametrize("total", [1, 2, 5, 17, 60, 250])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_the_true_rate_is_above_often_enough_whatever_it_is(total: int, confidence: float) -> None:
    """P(bound <= rate), summed over all outcomes: on a grid and just below each bound, where it is least."""
    found = np.array([lower_bound(k, total, confidence=confidence) for k in range(total + 1)])
    edges = np.nextafter(found[1:], 0)
    for rate in np.concatenate([np.linspace(0, 1, 101), edges, found]):
        covered = binom.pmf(np.arange(total + 1), total, rate)[found <= rate].sum()
        assert covered >= confidence - 1e-9
    tight = [binom.pmf(np.arange(total + 1), total, rate)[found <= rate].sum() for rate in edges]
    assert min(tight) == pytest.approx(confidence, abs=1e-9)  # a larger bound would not cover


@pytest.mark.parametrize("total", [1, 7, 500, 100_000])
def test_it_is_scipys_one_sided_interval(total: int) -> None:
    for agreeing in sorted({0, 1, total // 3, total - 1, total}):
        ours = lower_bound(agreeing, total)
        interval = binomtest(agreeing, total, alternative="greater").proportion_ci(0.95, method="exact")
        assert ours == pytest.approx(interval.low, rel=1e-9)


def test_none_and_all() -> None:
    assert lower_bound(0, 40) == 0
    assert lower_bound(40, 40) == pytest.approx(0.05 ** (1 / 40))


@pytest.mark.parametrize(("agreeing", "total"), [(3, 2), (-1, 2), (0, 0)])
def test_impossible_counts_are_refused(agreeing: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"{agreeing} of {total} texts cannot agree"):
        lower_bound(agreeing, total)


@pytest.mark.parametrize("confidence", [0.0, 1.0, float("nan")])
def test_impossible_confidences_are_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="a confidence lies between 0 and 1"):
        lower_bound(1, 2, confidence=confidence)
