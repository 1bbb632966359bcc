"""The linear probe against scikit-learn's logistic regression, which minimises the same."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from deltagram.errors import SettingError
from deltagram.training.probe import linear_probe


def blobs(seed: int, counts: tuple[int, ...] = (60, 30, 10)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    return rng.normal(size=(len(counts), 5))[labels] * 3 + rng.normal(size=(len(labels), 5)), labels


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_logistic_regression(weighted: bool) -> None:
    features, labels = blobs(0)
    weight = np.array([0.5, 1.0, 3.0]) if weighted else None
    w, b = linear_probe(features, labels, classes=3, class_weight=weight, ridge=1e-2)
    size = np.sqrt((features**2).sum(1).mean())
    total = (np.ones(3) if weight is None else weight)[labels].sum()
    # scikit-learn leaves the bias without a ridge: a column of ones is under it too.
    padded = np.hstack([features / size, np.ones((len(labels), 1))])
    other = LogisticRegression(
        C=1 / (1e-2 * total), fit_intercept=False, tol=1e-10, max_iter=10_000,
        class_weight=None if weight is None else dict(enumerate(weight)),
    ).fit(padded, labels)  # fmt: skip
    np.testing.assert_allclose(w * size, other.coef_[:, :-1], atol=2e-4)
    np.testing.assert_allclose(b, other.coef_[:, -1], atol=2e-4)


def test_the_scale_of_the_features_changes_no_answer() -> None:
    features, labels = blobs(1)
    w, b = linear_probe(features, labels, classes=3)
    v, c = linear_probe(1e3 * features, labels, classes=3)
    np.testing.assert_allclose(1e3 * v, w, rtol=1e-6)
    np.testing.assert_allclose(c, b, rtol=1e-6)


@pytest.mark.parametrize(("value", "says"), [(0.0, "are all zero"), (np.nan, "are not finite")])
def test_features_that_say_nothing_are_refused(value: float, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        linear_probe(np.full((4, 2), value), np.array([0, 1, 0, 1]), classes=2)
