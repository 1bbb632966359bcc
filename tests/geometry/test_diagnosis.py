"""Planted causes are named, healthy classes left alone; shifts are what they are said to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.errors import SettingError
from deltagram.geometry.diagnosis import HEALTHY, Diagnosis, diagnose
from deltagram.geometry.problem import Problem
from deltagram.geometry.shift import fitted_shift, fitted_tau
from planted import CAUSES, Planted, plant

SEEDS = range(20)


def diagnosed(case: Planted) -> Diagnosis:
    return diagnose(case.features, case.labels, case.classifier, case.bias, problem=Problem.of(case.counts))


@pytest.mark.parametrize("cause", CAUSES)
def test_a_planted_cause_is_named(cause: str) -> None:
    named, spoilt, alarms, sound = 0, 0, 0, 0
    for seed in SEEDS:
        case = plant(cause, seed)
        for finding in diagnosed(case).findings:
            if finding.label in case.spoilt:
                spoilt += 1
                named += finding.cause == cause
            else:
                sound += 1
                alarms += finding.cause != HEALTHY
    assert named >= 0.9 * spoilt
    assert alarms <= 0.05 * sound


def test_healthy_classes_raise_few_alarms() -> None:
    found = [finding for seed in SEEDS for finding in diagnosed(plant(None, seed)).findings]
    assert sum(finding.cause != HEALTHY for finding in found) <= 0.05 * len(found)


def test_remedies_tell_what_they_are_expected_to_give() -> None:
    case = plant("merged", 0)
    found = diagnosed(case)
    label = min(case.spoilt)
    finding = found.findings[label]
    assert f"a ridge of {np.sqrt(case.counts[label]):.3g} on" in finding.remedy
    assert finding.expected.startswith(f"{finding.gains['nearest mean']:+.3f}")
    assert found.repaired["nearest mean"] > found.balanced_recall
    assert found.causes.keys() >= case.spoilt


def test_a_diagnosis_is_invariant_to_rotation_and_order() -> None:
    case = plant("misaligned", 1)
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(case.features.shape[1],) * 2))[0]
    order = rng.permutation(len(case.labels))
    problem = Problem.of(case.counts)
    turned = diagnose(case.features @ turn, case.labels, case.classifier @ turn, case.bias, problem=problem)
    shuffled = diagnose(case.features[order], case.labels[order], case.classifier, case.bias, problem=problem)
    assert turned.causes == diagnosed(case).causes
    assert shuffled.causes.keys() == diagnosed(case).causes.keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classifier": np.ones((3, 4))}, r"classifier: has shape \(3, 4\), expected"),
        ({"bias": np.ones(3)}, r"bias: has shape \(3,\)"),
        ({"labels": np.zeros(8, np.int64)}, "class 1 has 0 samples, expected 4 or more"),
        ({"classifier": np.ones((2, 3))}, "classifier: takes 3 features, expected 4"),
        ({"features": np.full((8, 4), np.nan)}, "features"),
        ({"labels": np.array([0, 1, 2, 0, 1, 0, 1, 0])}, "label"),
    ],
)
def test_bad_input_is_refused(change: dict[str, np.ndarray], words: str) -> None:
    given = {
        "features": np.arange(32.0).reshape(8, 4), "labels": np.arange(8) % 2, "classifier": np.ones((2, 4)),
        "bias": np.zeros(2),
    } | change  # fmt: skip
    with pytest.raises(SettingError, match=words):
        diagnose(*given.values(), problem=Problem.of([5, 4]))


@given(st.integers(0, 50), st.floats(-2, 2))
@settings(max_examples=20, deadline=None)
def test_a_fitted_shift_undoes_a_planted_one(seed: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    k, prior = 4, np.array([8.0, 4.0, 2.0, 1.0])
    labels = np.repeat(np.arange(k), 400)
    logits = rng.normal(size=(len(labels), k)) + 2 * np.eye(k)[labels]
    planted = tau * np.log(prior / prior.sum())
    plain, moved = (fitted_shift(z, labels, ridge=1e-9) for z in (logits, logits + planted))
    np.testing.assert_allclose(moved - plain, planted - planted.mean(), atol=1e-4)
    assert fitted_tau(logits + planted, labels, prior) - fitted_tau(logits, labels, prior) == pytest.approx(
        tau, abs=1e-3
    )
    assert abs(plain.sum()) < 1e-9


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (np.zeros((2, 2)), np.array([0, 0]), "class 1 has no held-out sample"),
        (np.zeros((2, 2)), np.array([0, 2]), "labels: 0 to 2, expected 0 to 1"),
        (np.array([[0.0, np.inf], [1, 2]]), np.array([0, 1]), "of sample 0 are not finite"),
        (np.zeros((2, 2)), np.array([0]), "for 1 labels"),
    ],
)
def test_a_shift_refuses_what_it_cannot_fit(logits: np.ndarray, labels: np.ndarray, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        fitted_shift(logits, labels)
    with pytest.raises(SettingError, match="prior: class 1 has 0"):
        fitted_tau(np.zeros((2, 2)), np.array([0, 1]), np.array([1.0, 0.0]))
