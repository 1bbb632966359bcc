"""Scores beside scikit-learn's, and what is refused."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from deltagram.data.scores import ClassScores
from deltagram.errors import SettingError

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60)


@given(rows=pairs)
@settings(max_examples=150, deadline=None)
def test_scores_are_those_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    true, guess = np.array(rows).T
    found, seen = ClassScores.of(true, guess, classes=8), sorted({*true.tolist(), *guess.tolist()})
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        true, guess, labels=range(8), zero_division=np.nan
    )
    for mine, theirs in ((found.precision, precision), (found.recall, recall), (found.f1, f1)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-14)
    assert found.occurring.tolist() == support.tolist()
    assert found.accuracy == pytest.approx(metrics.accuracy_score(true, guess), rel=1e-14)
    by_recall = metrics.recall_score(true, guess, labels=np.unique(true), average="macro", zero_division=0)
    assert found.balanced_accuracy == pytest.approx(by_recall, rel=1e-14)
    assert found.macro_f1 == pytest.approx(
        metrics.f1_score(true, guess, labels=seen, average="macro", zero_division=0), rel=1e-14
    )
    assert found.worst[1] == np.nanmin(recall)


@given(rows=pairs, cut=st.integers(1, 59))
@settings(max_examples=50, deadline=None)
def test_parts_of_a_stream_add_up(rows: list[tuple[int, int]], cut: int) -> None:
    true, guess = np.array(rows).T
    if cut >= len(true):
        return
    whole = ClassScores.of(true, guess, classes=7)
    parts = ClassScores.of(true[:cut], guess[:cut], classes=7) + ClassScores.of(true[cut:], guess[cut:], classes=7)
    for name in ("occurring", "predicted", "right"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))


def test_groups_by_training_counts_are_mean_recalls() -> None:
    found = ClassScores.of([0, 0, 1, 2, 3, 3, 3, 3], [0, 1, 1, 0, 3, 3, 3, 0], classes=5)
    shots = found.shots([500, 101, 100, 20, 19])
    assert shots == {"many": 0.75, "medium": 0.375, "few": pytest.approx(math.nan, nan_ok=True)}
    with pytest.raises(SettingError, match="training counts: are 2, expected 5, one a class"):
        found.shots([1, 2])


def test_many_classes_take_no_table() -> None:
    rng = np.random.default_rng(0)
    true, guess = rng.integers(0, 30_000, (2, 100_000))
    tracemalloc.start()
    ClassScores.of(true, guess).balanced_accuracy  # noqa: B018 - the memory it takes is what is looked at
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # a table of 30,000 x 30,000 takes 7.2 GB


@pytest.mark.parametrize(
    ("true", "guess", "says"),
    [
        ([0, 7], [0, 1], "true classes, sample 1: class 7, expected 0 to 2"),
        ([0, 1], [-1, 1], "predicted classes, sample 0: class -1, expected 0 to 2"),
        ([0, 1], [0], "scores: of 2 true and 1 predicted classes, expected as many of both, one or more"),
        ([], [], "scores: of 0 true and 0 predicted classes"),
        ([0.5], [0], "true classes: of type float64 and shape (1,), expected integers on one axis"),
    ],
)
def test_what_is_no_class_is_refused(true: list, guess: list, says: str) -> None:
    with pytest.raises(SettingError) as caught:
        ClassScores.of(true, guess, classes=3)
    assert str(caught.value).startswith(says)
    with pytest.raises(SettingError, match="of 2 and of 3 classes"):
        ClassScores.of([0], [1]) + ClassScores.of([0], [2])
