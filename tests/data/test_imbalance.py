"""Imbalanced subsets of balanced data: published counts, exact counts, nested and drawn once for all."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltagram.data import class_counts, imbalanced_subset, long_tail_counts, power_law_counts, step_counts
from deltagram.errors import SettingError

# CIFAR-10-LT as published with the losses of Cui et al. (2019) and Cao et al. (2019), by ratio.
CIFAR10_LT = {
    100: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    10: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
}


@pytest.mark.parametrize("ratio", CIFAR10_LT)
def test_the_long_tail_is_the_published_one(ratio: int) -> None:
    assert long_tail_counts(10, largest=5000, ratio=ratio).tolist() == CIFAR10_LT[ratio]


@given(classes=st.integers(2, 60), largest=st.integers(1, 10**6), ratio=st.floats(1, 1000), seed=st.integers(0, 99))
def test_tails_fall_from_the_largest_to_its_share(classes: int, largest: int, ratio: float, seed: int) -> None:
    for make in (long_tail_counts, power_law_counts):
        if largest / ratio < 1.001:
            continue
        counts = make(classes, largest=largest, ratio=ratio)
        assert counts[0] == largest
        assert (np.diff(counts) <= 0).all()
        assert abs(counts[-1] - largest / ratio) <= 1
        drawn = make(classes, largest=largest, ratio=ratio, seed=seed)
        assert sorted(drawn) == sorted(counts)
        assert drawn.tolist() == make(classes, largest=largest, ratio=ratio, seed=seed).tolist()


def test_seeds_order_classes_differently() -> None:
    found = {tuple(long_tail_counts(10, largest=5000, ratio=100, seed=seed)) for seed in range(50)}
    assert len(found) == 50
    steps = {tuple(step_counts(10, largest=500, ratio=10, seed=seed)) for seed in range(50)}
    assert len(steps) > 40


@given(classes=st.integers(1, 20), share=st.sampled_from([0.25, 0.5, 0.75]), ratio=st.integers(1, 100))
def test_steps_have_two_sizes_in_their_ratio(classes: int, share: float, ratio: int) -> None:
    k = 4 * classes
    for seed in (None, 7):
        counts = step_counts(k, largest=100 * ratio, ratio=ratio, minority=share, seed=seed)
        assert sorted(counts) == [100] * round(share * k) + [100 * ratio] * round((1 - share) * k)


def test_the_minority_can_be_named() -> None:
    assert step_counts(5, largest=600, ratio=10, minority_classes=[1, 3, 4]).tolist() == [600, 60, 600, 60, 60]
    assert step_counts(4, largest=600, ratio=100, minority=0.25).tolist() == [600, 600, 600, 6]
    assert step_counts(2, largest=10, ratio=4).tolist() == [10, 2]  # 2.5 to the nearest even


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), seed=st.integers(-(2**40), 2**40), data=st.data())
def test_subsets_have_exactly_their_counts_and_are_nested(labels: list[int], seed: int, data: st.DataObject) -> None:
    there = class_counts(labels, classes=5)
    wanted = np.array([data.draw(st.integers(0, int(count))) for count in there])
    chosen = imbalanced_subset(labels, wanted, seed=seed)
    assert (np.diff(chosen) > 0).all()
    assert np.bincount(np.asarray(labels)[chosen], minlength=5).tolist() == wanted.tolist()
    assert set(imbalanced_subset(labels, wanted // 2, seed=seed)) <= set(chosen)
    assert imbalanced_subset(labels, there, seed=seed).tolist() == list(range(len(labels)))


def test_subsets_are_drawn_by_seed_without_bias() -> None:
    labels = np.arange(40) % 2
    times = sum(np.bincount(imbalanced_subset(labels, [5, 5], seed=seed), minlength=40) for seed in range(2000))
    assert np.abs(times - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_counts_of_labels() -> None:
    assert class_counts(np.array([3, 0, 3], np.uint8)).tolist() == [1, 0, 0, 2]
    assert class_counts([1], classes=3).dtype == np.int64


REFUSED: list[tuple[Any, str]] = [
    (lambda: class_counts([0, 5], classes=3), "labels: sample 1 has label 5, expected 0 to 2"),
    (lambda: class_counts([0, -1]), "labels: sample 1 has label -1, expected 0 or more"),
    (lambda: class_counts([0.0, 1.0]),
     "labels: are of shape (2,) and type float64, expected one whole number a sample"),
    (lambda: step_counts(1, largest=5, ratio=2), "classes: is 1, expected 2 or more"),
    (lambda: step_counts(4, largest=0, ratio=2), "largest: is 0, expected 1 or more"),
    (lambda: step_counts(4, largest=5, ratio=0.5), "ratio: is 0.5, expected 1 (balanced) or more"),
    (lambda: step_counts(4, largest=5, ratio=float("nan")), "ratio: is nan, expected 1 (balanced) or more"),
    (lambda: step_counts(4, largest=5, ratio=11), "ratio: is 11, which leaves 0.455 samples, expected 1 or more"),
    (lambda: step_counts(5, largest=5, ratio=2),
     "minority: is 0.5, which makes 2.5, expected a whole number of the 5 classes"),
    (lambda: step_counts(4, largest=5, ratio=2, minority=1.0), "minority: is 4 classes of 4, expected 1 to 3"),
    (lambda: step_counts(4, largest=5, ratio=2, minority=0.0), "minority: is 0 classes of 4, expected 1 to 3"),
    (lambda: step_counts(4, largest=5, ratio=2, minority_classes=[4]),
     "labels: sample 0 has label 4, expected 0 to 3"),
    (lambda: long_tail_counts(4, largest=5, ratio=6),
     "ratio: leaves 0 samples in the smallest class, expected 1 or more; lower it"),
    (lambda: imbalanced_subset([0, 1, 1], [1, 3]), "counts: want 3 samples of class 1, expected at most 2"),
    (lambda: imbalanced_subset([0, 1, 1], [1, -3]), "counts: are [1, -3], expected a whole number of samples a class"),
    (lambda: imbalanced_subset([0, 1, 1], [1, 0.5]),
     "counts: are [1.0, 0.5], expected a whole number of samples a class"),
    (lambda: imbalanced_subset([0, 1, 2], [1, 1]), "labels: sample 2 has label 2, expected 0 to 1"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_made_is_refused(make: Any, said: str) -> None:
    with pytest.raises(SettingError) as fault:
        make()
    assert str(fault.value) == said
