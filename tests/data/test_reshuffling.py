"""Epochs until reshuffled batches are valid together: the estimate against batches drawn."""

from typing import Any

import numpy as np
import pytest

from deltagram.data import audit_batches, expected_epochs
from deltagram.errors import SettingError

SETTINGS = [
    ([16, 16, 4, 4], 20, 1), ([16, 16, 4, 4], 10, 2), ([60, 60, 5, 5], 12, 1), ([60, 60, 5, 5], 12, 2),
    ([100, 30, 30], 10, 1), ([2, 2, 40], 9, 1), ([1, 30, 30], 10, 1), ([1, 1, 20], 7, 2), ([40] * 4, 64, 1),
]  # fmt: skip


def drawn(counts: list[int], batch_size: int, views: int, rng: np.random.Generator) -> int:
    """Epochs of one run until the audit says unique."""
    label = np.repeat(np.arange(len(counts)), counts)
    batches: list[Any] = []
    for epoch in range(1, 1000):
        batches += np.split(rng.permutation(len(label)), np.arange(batch_size, len(label), batch_size))
        if audit_batches(batches, label, views=views).verdict == "unique":
            return epoch
    raise AssertionError("never")


@pytest.mark.parametrize(("counts", "batch_size", "views"), SETTINGS)
def test_the_estimate_is_near_what_draws_say(counts: list[int], batch_size: int, views: int) -> None:
    """Within a quarter, and 4 standard errors of 25 runs."""
    rng = np.random.default_rng(0)
    found = [drawn(counts, batch_size, views, rng) for _ in range(25)]
    error = np.std(found) / 5
    estimate = expected_epochs(counts, batch_size, views=views)
    assert estimate is not None
    assert abs(estimate - np.mean(found)) < 0.25 * estimate + 4 * error


def test_a_pair_of_samples_meets_as_the_formula_says() -> None:
    """A class of two in few batches, beside one of many: 1 / P(both in one batch)."""
    together = (2 * 10 * 9 + 1 * 2 * 1) / (22 * 21)
    after_two = 1 / together + together  # the class of 20 is never in one batch of 10: not after one epoch
    assert expected_epochs([2, 20], 10, views=2) == pytest.approx(after_two, rel=1e-3)


def test_rare_classes_take_long_and_what_never_meets_is_said() -> None:
    assert expected_epochs([500] * 5 + [5] * 5, 20, views=2) == pytest.approx(138, rel=0.1)  # n / B = 126: drawn once
    assert expected_epochs([10, 1, 1], 4) is None
    assert expected_epochs([10, 0, 1], 1) is None
    assert expected_epochs([10, 1, 1], 12, views=2) == 1
    assert expected_epochs([50_000] * 10, 500) == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize(
    ("counts", "batch_size", "views", "said"),
    [
        ([3, -1], 2, 1, "counts: are [3, -1], expected whole numbers, two or more of them above 0"),
        ([3, 0], 2, 1, "counts: are [3, 0], expected whole numbers, two or more of them above 0"),
        ([3, 1.5], 2, 1, "counts: are [3.0, 1.5], expected whole numbers, two or more of them above 0"),
        ([3, 3], 0, 1, "batch_size: is 0, expected 1 or more"),
        ([3, 3], 2, 0, "views: is 0, expected 1 or more"),
    ],
)
def test_what_is_no_shuffling_is_refused(counts: Any, batch_size: int, views: int, said: str) -> None:
    with pytest.raises(SettingError) as fault:
        expected_epochs(counts, batch_size, views=views)
    assert str(fault.value) == said
