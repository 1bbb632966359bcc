"""The margin problem searched from random starts, against its closed form: two ways that share no step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.errors import SettingError
from deltagram.geometry.gram import compare
from deltagram.geometry.nonconvex import margin_search
from deltagram.geometry.predict import certificate, cross_entropy, seli
from deltagram.geometry.problem import Problem

NEAR = 1e-5  # margins and complementarity are met to 1e-8, a relative gradient to 1e-4: its square moves the value


@settings(deadline=None, max_examples=25)
@given(data=st.data(), k=st.integers(2, 5), seed=st.integers(0, 5))
def test_random_starts_end_at_the_closed_form(data: st.DataObject, k: int, seed: int) -> None:
    counts = data.draw(st.lists(st.integers(1, 60), min_size=k, max_size=k))
    scales = {
        name: data.draw(st.lists(st.floats(0.3, 3.0), min_size=k, max_size=k))
        for name in ("class_scale", "label_scale")
    }
    found = margin_search(Problem.of(counts, **scales), 2 * k, seed=seed)
    predicted = cross_entropy(counts, **scales)
    far = compare(found.geometry(), predicted)
    assert max(far.classifiers or 0.0, far.means, far.logits or 0.0) < 1e-3
    assert found.value == pytest.approx(certificate(counts, **scales).primal, rel=NEAR)
    assert found.geometry().classifiers.entries() == pytest.approx(predicted.classifiers.entries(), rel=1e-3)
    assert found.violation <= 1e-6


def test_features_of_a_class_collapse_without_being_told() -> None:
    """Neural collapse, part (i) of Theorem 1: every sample with a feature of its own."""
    counts = [12, 12, 3, 3]
    found = margin_search(Problem.of(counts), 6, every_sample=True)
    assert len(found.features) == 30
    assert found.spread < 1e-5
    assert compare(found.geometry(), seli(counts)).means < 1e-5


def test_a_wrong_prediction_is_far() -> None:
    found = margin_search(Problem.of([40, 40, 1, 1], class_scale=[2.0, 2.0, 0.5, 0.5]), 8)
    assert compare(found.geometry(), seli([40, 40, 1, 1])).logits > 0.05


def test_the_gradient_is_that_of_the_lagrangian() -> None:
    from deltagram.geometry.nonconvex import _Search  # noqa: PLC0415

    rng = np.random.default_rng(0)
    problem = Problem.of([4, 2, 1], class_scale=[1.0, 0.5, 2.0], label_scale=[1.5, 1.0, 0.7])
    search = _Search(problem=problem, labels=np.arange(3), mass=problem.counts, dim=2)
    at, multipliers = rng.standard_normal(12), rng.random((3, 3))
    np.fill_diagonal(multipliers, 0.0)
    penalty = np.full((3, 3), 5.0)
    step = 1e-6
    numeric = [
        (search.value(at + step * e, multipliers, penalty)[0] - search.value(at - step * e, multipliers, penalty)[0])
        / step
        / 2
        for e in np.eye(12)
    ]
    assert search.value(at, multipliers, penalty)[1] == pytest.approx(numeric, abs=1e-7)


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(SettingError, match="dim: is 0, expected 1 or more"):
        margin_search(Problem.of([2, 1]), 0)
    with pytest.raises(SettingError, match="3,000 features, expected at most 2,000; take every_sample=False"):
        margin_search(Problem.of([2999, 1]), 3, every_sample=True)
    with pytest.raises(SettingError, match="off margins of 1; start from another seed, or take more dimensions"):
        margin_search(Problem.of([1, 1, 1, 1]), 1)
