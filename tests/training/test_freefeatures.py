"""Free features go where the ridge path says, by every method, and what a minimum may be off is bounded."""

import dataclasses

import numpy as np
import pytest
import torch

from deltagram.errors import SettingError
from deltagram.geometry.gram import Comparison, compare
from deltagram.geometry.path import finite_ridge
from deltagram.geometry.predict import seli
from deltagram.losses import CDT, LDT, VS, CrossEntropy, LogitAdjusted
from deltagram.training.freefeatures import FreeFeatures, Method, descend, log_spaced
from deltagram.training.stationary import allowed, minimise

COUNTS = [12, 12, 3, 2]
LOSSES = {
    "CE": CrossEntropy(),
    "wCE": CrossEntropy(class_counts=COUNTS, class_weight="balanced"),
    "LA": LogitAdjusted(COUNTS),
    "CDT": CDT(COUNTS, gamma=0.3),
    "LDT": LDT(COUNTS, gamma=0.3),
    "LDT + weights": LDT.symmetric(COUNTS),
    "VS": VS(COUNTS),
}


def free(loss: torch.nn.Module, **given: object) -> FreeFeatures:
    settings = {"counts": COUNTS, "dim": 6, "weight_decay": 1e-3, "feature_decay": 1e-3, "seed": 3} | given
    return FreeFeatures(loss=loss, **settings)


def within(got: Comparison, most: Comparison) -> bool:
    return all(value <= limit for value, limit in zip(vars(got).values(), vars(most).values(), strict=True))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_minimum_is_the_one_of_the_path(name: str, reduction: str) -> None:
    decay = (1e-3, 4e-3) if reduction == "mean" else (0.03, 0.12)  # decays that differ act by their geometric mean
    model = free(LOSSES[name], weight_decay=decay[0], feature_decay=decay[1], reduction=reduction)
    found = minimise(model, tolerance=1e-9)
    predicted, optimality = finite_ridge(model.problem, model.ridge)
    most = allowed(model.problem, predicted, model.ridge, found.gap)
    assert within(compare(found.snapshot.geometry(), predicted), most)
    assert max(vars(most).values()) < 0.01
    assert found.snapshot.objective * model.divided_by == pytest.approx(optimality.primal, rel=1e-9)
    assert found.snapshot.spread < 1e-8
    assert found.gradient < 1e-6


def test_the_gap_is_a_bound_on_a_model_that_is_not_done() -> None:
    """The certificate of a point far from the minimum is at least its true distance in value: it needs no minimum."""
    model = free(CrossEntropy())
    least = minimise(model).snapshot.objective * model.divided_by
    for tolerance in (10.0, 1.0, 0.1):
        found = minimise(model, tolerance=tolerance)
        assert found.snapshot.objective * model.divided_by - least <= found.gap
        predicted, _ = finite_ridge(model.problem, model.ridge)
        most = allowed(model.problem, predicted, model.ridge, found.gap)
        assert within(compare(found.snapshot.geometry(), predicted), most)


@pytest.mark.parametrize(
    ("method", "most"),
    [
        (Method(learning_rate=1.0), 1e-3),
        (Method(learning_rate=0.5, momentum=0.9), 1e-3),
        (Method(optimizer="adam", learning_rate=0.01), 1e-2),
        (Method(learning_rate=0.02, momentum=0.9, batch_size=8), 0.1),
    ],
    ids=["GD", "momentum", "Adam", "mini-batches"],
)
def test_a_method_reaches_the_minimum_of_its_ridge(method: Method, most: float) -> None:
    """The objective falls, and the end is the geometry of the ridge that the decays make. Mini-batches end near it."""
    model = free(CrossEntropy(), weight_decay=0.01, feature_decay=0.01)
    found = descend(model, method, at=log_spaced(1500, 6))
    objective = [snapshot.objective for snapshot in found]
    assert objective[-1] < objective[0]
    assert max(np.diff(objective)) < 1e-3 * objective[0]
    far = compare(found[-1].geometry(), finite_ridge(model.problem, model.ridge)[0])
    assert max(vars(far).values()) < most
    assert max(vars(compare(found[0].geometry(), finite_ridge(model.problem, model.ridge)[0])).values()) > 0.1


def test_full_batch_steps_are_gradient_descent() -> None:
    """Each step against the gradient worked out by hand in NumPy."""
    model = free(LDT(COUNTS), weight_decay=0.02, feature_decay=0.05)
    w, h = model.begin()
    problem, y = model.problem, model.labels
    for _ in range(3):
        s = problem.label_scale[y][:, None] * (h @ w.T)
        p = np.exp(s - s.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(y)), y] -= 1
        g = problem.label_scale[y][:, None] * p / len(y)
        w, h = w - 0.3 * (g.T @ h + 0.02 * w), h - 0.3 * (g @ w + 0.05 * h)
    found = descend(model, Method(learning_rate=0.3), at=[3])[0]
    np.testing.assert_allclose(found.classifiers, w, rtol=1e-10)
    means = np.stack([h[y == c].mean(0) for c in range(4)])
    np.testing.assert_allclose(found.moments.means, means, rtol=1e-10)


def test_steps_divided_by_the_loss_reach_margins_that_others_do_not() -> None:
    model = free(CrossEntropy(), weight_decay=0.0, feature_decay=0.0, reduction="sum", scale=0.3)
    at = log_spaced(1000, 4)
    slow = descend(model, Method(learning_rate=0.1), at=at)[-1]
    fast = descend(model, Method(learning_rate=0.1, normalised=True), at=at)[-1]
    limit = seli(COUNTS)
    far, near = (compare(end.geometry("class_mean"), limit) for end in (slow, fast))
    assert fast.objective < 1e-6 * slow.objective
    assert all(one < 0.8 * other for one, other in zip(vars(near).values(), vars(far).values(), strict=True))


def test_a_seed_is_a_run() -> None:
    method, at = Method(learning_rate=0.1, momentum=0.9, batch_size=5), [1, 4]
    one, again, other = (descend(free(CrossEntropy(), seed=seed), method, at=at)[-1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.classifiers, again.classifiers)
    assert not np.allclose(one.classifiers, other.classifiers)


def test_what_the_theory_does_not_cover_is_refused() -> None:
    plain = CrossEntropy()
    with pytest.raises(SettingError, match="loss: smooths labels, expected one label a sample"):
        free(CrossEntropy(label_smoothing=0.1))
    with pytest.raises(SettingError, match="counts: class 1 has 0"):
        free(plain, counts=[2, 0])
    with pytest.raises(SettingError, match="dim: is 0, expected 1 or more"):
        free(plain, dim=0)
    with pytest.raises(SettingError, match=r"weight_decay and feature_decay: are -1 and 0\.001, expected"):
        free(plain, weight_decay=-1)
    with pytest.raises(SettingError, match="reduction: 'none' is unknown, expected mean or sum"):
        free(plain, reduction="none")
    with pytest.raises(SettingError, match="feature_decay: 0, expected a positive number"):
        minimise(free(plain, feature_decay=0.0))
    with pytest.raises(SettingError, match=r"at: are \[3, 1\], expected epochs that rise, from 1"):
        descend(free(plain), Method(learning_rate=1.0), at=[3, 1])
    with pytest.raises(SettingError, match="learning_rate: makes the objective nan within 20 epochs"):
        descend(free(plain), Method(learning_rate=1e200), at=[20])
    for name, value in (("learning_rate", 0.0), ("batch_size", 0)):
        with pytest.raises(SettingError, match=f"{name}: is {value}"):
            Method(**{"learning_rate": 0.1, name: value})
    with pytest.raises(SettingError, match="normalised: with adam, expected sgd"):
        Method(optimizer="adam", learning_rate=0.1, normalised=True)
    with pytest.raises(SettingError, match="optimizer: 'lion' is unknown, expected sgd or adam"):
        Method(optimizer="lion", learning_rate=0.1)
    model = free(plain)
    zero = finite_ridge(model.problem, 100.0)[0]
    with pytest.raises(SettingError, match="ridge 100: is zero, and so has no shape, expected a ridge below that"):
        allowed(model.problem, zero, 100.0, 1e-9)
    predicted = dataclasses.replace(finite_ridge(model.problem, model.ridge)[0], classifiers=None)
    with pytest.raises(SettingError, match="has no classifiers, expected a prediction of cross-entropy"):
        allowed(model.problem, predicted, model.ridge, 1e-9)
