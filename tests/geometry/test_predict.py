"""Predictions: what they refuse, and what a user reads in them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from deltagram.errors import SettingError
from deltagram.geometry import Geometry, Matrix, compare, predict, tune
from deltagram.geometry.convex import margin_program
from deltagram.geometry.path import finite_ridge, zero_from
from deltagram.geometry.problem import Problem, scale_by_counts
from deltagram.geometry.ridge import merges_from, ridge_of
from deltagram.geometry.step import Step, at_ridge
from deltagram.geometry.summary import rows

BAD: Mapping[str, tuple[Callable[[], Any], str]] = {
    "negative": (lambda: predict.seli([3, -1]), "counts: class 1 has -1, expected positive whole numbers"),
    "zero": (lambda: predict.seli([3, 0]), "class 1 has 0, .*leave out classes without samples"),
    "fraction": (lambda: predict.seli([3, 1.5]), "class 1 has 1.5"),
    "nan": (lambda: predict.seli([3, np.nan]), "class 1 has nan"),
    "one class": (lambda: predict.seli([3]), "1 class, expected two or more"),
    "words": (lambda: predict.seli(["a", "b"]), "are not numbers"),
    "matrix": (lambda: predict.seli([[3, 4], [1, 2]]), "has shape"),
    "zero scale": (lambda: predict.cross_entropy([3, 4], class_scale=[1, 0]), "class_scale: class 1 has 0"),
    "negative weight": (lambda: Problem.of([3, 4], weight=[-1, 1]), "weight: class 0 has -1"),
    "short": (lambda: predict.cross_entropy([3, 4], label_scale=[1]), "has 1 numbers, expected 2"),
    "infinite": (lambda: Problem.of([3, 4], offset=[0, np.inf]), "offset: class 1 has inf"),
    "few dimensions": (lambda: predict.seli([3, 4, 5], dim=1), "1 dimensions for 3 classes, expected 2 or more"),
    "no ridge": (lambda: finite_ridge(Problem.of([3, 4]), 0.0), "ridge: 0, expected a positive number"),
    "one etf": (lambda: predict.etf(1), "classes: 1, expected two or more"),
    "network": (
        lambda: ridge_of(Problem.of([3, 4]), weight_decay=1e-4, feature_decay=None),
        "without decay on its features has no ridge",
    ),
    "no decay": (lambda: ridge_of(Problem.of([3, 4]), weight_decay=0, feature_decay=1), "weight_decay: 0, expected"),
    "kappa": (lambda: tune.simplex_classifiers([3, 4], kappa=0), "kappa: 0, expected a positive number"),
    "not step": (lambda: tune.equal_angles([3, 4, 5]), "are not two sizes"),
    "step": (lambda: Step(majority=0, minority=2, ratio=2.0), "0 majority and 2 minority"),
    "step ratio": (lambda: Step(majority=1, minority=2, ratio=-2.0), "ratio is -2"),
    "step root": (lambda: at_ridge(Step(majority=1, minority=1, ratio=2.0), 0.1), "outside this formula"),
    "step ridge": (lambda: at_ridge(Step(majority=2, minority=1, ratio=2.0), -0.1), "ridge: -0.1"),
    "large program": (lambda: margin_program(Problem.of([2] * 65)), "65 classes, expected at most 64"),
    "bias with scales": (
        lambda: margin_program(Problem.of([2, 3], class_scale=[1, 2]), free_bias=True), "with class or label scales",
    ),
    "sizes": (lambda: compare(predict.etf(3), predict.etf(4)), "etf has 3 classes, etf has 4"),
    "parts": (
        lambda: Geometry(name="x", means=Matrix.of_vectors(np.eye(2)), counts=np.ones(3)), "parts of .2, 3. classes",
    ),
    "no classifiers": (
        lambda: Geometry(name="x", means=Matrix.of_vectors(np.eye(2)), counts=np.ones(2)).alignment(),
        "has no classifiers",
    ),
    "few features": (lambda: predict.etf(5).classifier_vectors(3), "needs 4 dimensions, expected at most 3"),
    "data": (lambda: Geometry.of_data({"name": "x"}), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_in_words(case: tuple[Callable[[], Any], str]) -> None:
    with pytest.raises(SettingError, match=case[1]):
        case[0]()


def test_beyond_the_last_threshold_everything_is_zero_and_said_so() -> None:
    problem = Problem.of([50, 5, 5])
    geometry, proof = finite_ridge(problem, zero_from(problem) * 1.01)
    assert not geometry.means.dense().any()
    assert geometry.conventions["collapsed"] == "everything is zero"
    assert abs(proof.gap) < 1e-12
    assert np.isnan(geometry.alignment()).all()
    assert np.isnan(compare(geometry, predict.etf(3)).means)


def test_ten_thousand_classes_take_thin_factors_only() -> None:
    counts = np.random.default_rng(0).integers(1, 5000, 10_000)
    geometry = predict.cross_entropy(counts, class_scale=scale_by_counts(counts, 0.2))
    for matrix in (geometry.classifiers, geometry.means, geometry.logits):
        assert matrix is not None
        assert matrix.left.shape[1] < 64
    found = rows(geometry)
    assert sum(row.classes for row in found) == 10_000
    assert found[0].classifier_norm > found[-1].classifier_norm  # type: ignore[operator]


def test_ridge_in_the_terms_of_a_training_run() -> None:
    problem = Problem.of([30, 10], weight=[1, 3])
    assert ridge_of(problem, weight_decay=4e-4, feature_decay=1e-4) == pytest.approx(60 * 2e-4)
    assert ridge_of(problem, weight_decay=4e-4, feature_decay=1e-4, reduction="sum") == pytest.approx(2e-4)


def test_a_class_alone_of_its_kind_merges_with_none() -> None:
    found = merges_from(Problem.of([30, 10, 10]))
    assert np.isnan(found[0])
    assert found[1:].tolist() == pytest.approx([10**0.5] * 2)


def test_rows_average_over_pairs() -> None:
    geometry = predict.seli([9, 9, 4, 4, 4])
    first, last = rows(geometry)
    cosines = geometry.classifier_cosines()
    assert (first.classes, last.classes, first.most, last.least) == (2, 3, 9, 4)
    assert first.classifier_cosine == pytest.approx(cosines[0, 1])
    assert last.classifier_cosine == pytest.approx(cosines[3, 4])
    assert first.classifier_cosine_others == pytest.approx(cosines[0, 4])
    assert rows(predict.seli([3, 1]))[0].classifier_cosine is None
