"""The post-hoc classifier under scikit-learn's and imbalanced-learn's own checks, and what it gains."""

from typing import Any

import numpy as np
import pytest
from imblearn.utils.estimator_checks import parametrize_with_checks as imbalanced_checks
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks

from deltagram.errors import SettingError
from deltagram.training import LogitAdjustedClassifier

KINDS = (LogitAdjustedClassifier(), LogitAdjustedClassifier(shift="class"), LogitAdjustedClassifier(shift=1.0))


@parametrize_with_checks(list(KINDS))
def test_it_is_an_estimator_to_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


OF_IMBALANCE = imbalanced_checks(list(KINDS)).mark


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # of the wrapped regression
@pytest.mark.parametrize(OF_IMBALANCE.args[0], list(OF_IMBALANCE.args[1]), ids=OF_IMBALANCE.kwargs["ids"])
def test_it_is_an_estimator_to_imbalanced_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def skewed(seed: int) -> tuple[Any, ...]:
    x, y = make_classification(
        6000, n_features=12, n_informative=8, n_classes=3, weights=[0.9, 0.07, 0.03], random_state=seed
    )
    return tuple(train_test_split(x, y, random_state=seed, stratify=y))


@pytest.mark.parametrize("shift", ["tau", "class", 1.0])
def test_it_raises_balanced_accuracy(shift: Any) -> None:
    gains = []
    for seed in range(3):
        x, held, y, held_y = skewed(seed)
        plain = LogisticRegression().fit(x, y)
        adjusted = LogitAdjustedClassifier(shift=shift).fit(x, y)
        np.testing.assert_allclose(adjusted.predict_proba(held).sum(1), 1)
        scores = [balanced_accuracy_score(held_y, one.predict(held)) for one in (plain, adjusted)]
        gains.append(scores[1] - scores[0])
    assert min(gains) > 0
    assert np.mean(gains) > 0.1


def test_a_shift_of_zero_changes_nothing() -> None:
    x, held, y, _ = skewed(0)
    adjusted = LogitAdjustedClassifier(shift=0.0).fit(x, y)
    np.testing.assert_allclose(adjusted.predict_proba(held), LogisticRegression().fit(x, y).predict_proba(held))


@pytest.mark.parametrize(
    ("shift", "y", "words"),
    [
        ("prior", [0, 0, 1, 1], "shift: 'prior', expected 'tau', 'class'"),
        ("tau", [0, 0, 0, 1], "a class has one sample"),
    ],
)
def test_what_cannot_be_fitted_is_refused(shift: str, y: list[int], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        LogitAdjustedClassifier(shift=shift).fit(np.arange(8.0).reshape(4, 2), y)
