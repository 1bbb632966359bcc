"""Class weights as scikit-learn makes them, empty classes, and what is refused, by its text."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.errors import SettingError
from deltagram.losses import CDT, LDT, VS, CrossEntropy, LogitAdjusted
from deltagram.losses.counts import class_weights, filled, log_prior

FROM_COUNTS = {"LA": LogitAdjusted, "CDT": CDT, "LDT": LDT, "VS": VS}
WITH_COUNTS: dict[str, Any] = {
    **FROM_COUNTS,
    "CE": lambda counts, **given: CrossEntropy(class_counts=counts, **given),
}


@settings(deadline=None)  # scikit-learn is imported by the first example
@given(counts=st.lists(st.integers(1, 50), min_size=2, max_size=8), data=st.data())
def test_class_weights_are_those_of_scikit_learn(counts: list[int], data: st.DataObject) -> None:
    compute = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    classes = np.arange(len(counts))
    labels = np.repeat(classes, counts)
    named = data.draw(st.dictionaries(st.sampled_from(classes.tolist()), st.floats(0.1, 9), min_size=1))
    for chosen in ("balanced", named):
        found = class_weights(chosen, counts=np.asarray(counts, float), classes=len(counts))
        assert found == pytest.approx(compute(chosen, classes=classes, y=labels), rel=1e-13)


@pytest.mark.parametrize("name", WITH_COUNTS)
def test_empty_classes_are_refused_by_name_or_smoothed(name: str) -> None:
    counts = [5, 0, 3, 0]
    said = (
        "class_counts: 0 samples in class 1, 3, expected at least 1 in each; leave them out, or say empty='smooth' "
        "(1 is added to every count)"
    )
    with pytest.raises(SettingError) as fault:
        WITH_COUNTS[name](counts, class_weight="balanced")
    assert str(fault.value) == said
    loss = WITH_COUNTS[name](counts, class_weight="balanced", empty="smooth")
    plus = WITH_COUNTS[name]([6, 1, 4, 1], class_weight="balanced")
    for key, value in plus.state_dict().items():
        torch.testing.assert_close(loss.state_dict()[key], value)
    z = torch.randn(4, 4, requires_grad=True)
    loss(z, torch.arange(4)).backward()
    assert bool(z.grad.isfinite().all())  # type: ignore[union-attr]


def test_plain_cross_entropy_divides_by_no_count() -> None:
    assert CrossEntropy(class_counts=[5, 0]).classes == 2


def test_smoothing_adds_one_to_all_and_priors_still_sum_to_one() -> None:
    assert filled(np.array([2.0, 0.0]), empty="smooth").tolist() == [3.0, 1.0]
    assert np.exp(log_prior(np.array([3.0, 1.0]), 1.0)).sum() == pytest.approx(1.0)


COUNTS_REFUSED = [
    ([5, -1], "class_counts: is -1 for class 1, expected a finite number, at least 0"),
    ([5, 2.5], "class_counts: is 2.5 for class 1, expected a whole number of samples"),
    ([5, float("nan")], "class_counts: is nan for class 1, expected a finite number, at least 0"),
    ([0, 0, 0], "class_counts: is 0 for every class, expected a class that has samples"),
    ([5], "class_counts: has 1 class, expected at least 2"),
    ([], "class_counts: has 0 classes, expected at least 2"),
    ([[5, 2]], "class_counts: has shape (1, 2), expected one number a class"),
    ("many", "class_counts: is 'many', expected one number a class"),
]


@pytest.mark.parametrize("name", WITH_COUNTS)
@pytest.mark.parametrize(("counts", "said"), COUNTS_REFUSED)
def test_counts_that_are_none_are_refused(name: str, counts: Any, said: str) -> None:
    with pytest.raises(SettingError) as fault:
        WITH_COUNTS[name](counts)
    assert str(fault.value) == said


REFUSED: list[tuple[Any, str]] = [
    (lambda: CDT(class_scale=[1, 0.0]), "class_scale: is 0 for class 1, expected a finite number, above 0"),
    (lambda: LDT(label_scale=[1, -2]), "label_scale: is -2 for class 1, expected a finite number, above 0"),
    (lambda: VS(offset=[1, np.inf]), "offset: is inf for class 1, expected a finite number"),
    (lambda: CrossEntropy([1, -2]), "weight: is -2 for class 1, expected a finite number, at least 0"),
    (lambda: CrossEntropy([0, 0]), "weight: is 0 for every class, expected a weight above 0"),
    (lambda: CDT([5, 3], gamma=np.nan), "gamma: is nan, expected a finite number"),
    (lambda: LogitAdjusted([5, 3], tau=np.inf), "tau: is inf, expected a finite number"),
    (lambda: LDT.symmetric([5, 3], kappa=0), "kappa: is 0 for class 0, expected a finite number, above 0"),
    (lambda: CDT([9, 1], gamma=900), "class_counts ** gamma: is 0 for class 1, expected a finite number, above 0"),
    (lambda: CDT([5, 3], normalise="mean"), "normalise: 'mean' is unknown, expected sum or max or none"),
    (lambda: CDT([5, 3], empty="skip"), "empty: 'skip' is unknown, expected refuse or smooth"),
    (lambda: CrossEntropy(reduction="avg"), "reduction: 'avg' is unknown, expected none or mean or sum"),
    (lambda: CrossEntropy(label_smoothing=1.5), "label_smoothing: is 1.5, expected a share from 0 to 1"),
    (lambda: CDT([9, 1], gamma=90), "class_scale: is 2.62545e-86 for class 1, expected what torch.float32 can hold"),
    (lambda: LDT(label_scale=[1, 1e39]), "label_scale: is 1e+39 for class 1, expected what torch.float32 can hold"),
    (CDT, "CDT: has no parameters; give class_counts, or class_scale"),
    (VS, "VS: has no parameters; give class_counts, or class_scale or label_scale or offset"),
    (
        lambda: CDT([5, 3], class_scale=[1, 2], gamma=0.5),
        "class_scale: is given, and gamma, which would make one, too, expected one of them",
    ),
    (lambda: VS(offset=[1, 2], gamma=0.5), "gamma: is given without counts; give class_counts"),
    (
        lambda: CDT([5, 3], cls_num_list=[5, 3]),
        "class_counts: is given, and cls_num_list, its other name, too, expected one of them",
    ),
    (lambda: CrossEntropy([1, 2], class_weight={0: 2}), "weight: is given, and class_weight too, expected one of them"),
    (lambda: CrossEntropy(class_weight="balanced"), "class_weight: is 'balanced' without counts; give class_counts"),
    (
        lambda: CrossEntropy(class_weight="uniform"),
        "class_weight: 'uniform' is unknown, expected 'balanced', a dict or an array",
    ),
    (
        lambda: CDT([5, 3], class_weight={2: 1.0}),
        "class_weight: has a weight for class 2, expected classes 0 to 1",
    ),
    (
        lambda: CrossEntropy(class_weight={0: 1.0, 5: 1.0}),
        "class_weight: has a weight for class 5, expected classes 0 to 1; give class_counts, which say how many "
        "classes there are",
    ),
    (
        lambda: VS(class_scale=[1, 2], offset=[0, 0, 0]),
        "loss: class_scale has 2 and offset has 3 classes, expected one number of classes",
    ),
    (
        lambda: CDT([5, 3], weight=[1, 2, 3]),
        "loss: class_scale has 2 and weight has 3 and class_counts has 2 classes, expected one number of classes",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_settings_are_refused(make: Any, said: str) -> None:
    with pytest.raises(SettingError) as fault:
        make()
    assert str(fault.value) == said


LOSSES = {name: make([5, 3, 2]) for name, make in WITH_COUNTS.items()}
SMOOTHED = {f"{name} smoothed": make([5, 3, 2], label_smoothing=0.1) for name, make in WITH_COUNTS.items()}


@pytest.mark.parametrize("name", [*LOSSES, *SMOOTHED])
@pytest.mark.parametrize("label", [3, -1, -7])
def test_labels_outside_the_range_are_refused(name: str, label: int) -> None:
    with pytest.raises(SettingError) as fault:
        (LOSSES | SMOOTHED)[name](torch.zeros(2, 3), torch.tensor([1, label]))
    assert str(fault.value) == f"target: has label {label}, expected 0 to 2, or -100 to ignore a sample"


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_do_not_fit_are_refused(name: str) -> None:
    for z, y, said in (
        (torch.zeros(2, 4), torch.zeros(2).long(),
         "loss: logits (2, 4) of 4 classes, expected 3, as the loss was made for"),
        (torch.zeros(2, 3), torch.zeros(5).long(), "target: has shape (5,), expected (2,), or that of the logits"),
        (torch.zeros(2, 3), torch.zeros(2, 3).long(),
         "target: is torch.int64 of the shape of the logits, expected probabilities, or one label a sample"),
        (torch.zeros(()), torch.zeros(()).long(),
         "loss: logits are one number, expected (class), (sample, class) or more axes"),
    ):  # fmt: skip
        with pytest.raises(SettingError) as fault:
            LOSSES[name](z, y)
        assert str(fault.value) == said


def test_a_class_can_be_ignored_but_not_of_probabilities() -> None:
    with pytest.raises(SettingError, match="ignore_index: is 1, and targets are probabilities, expected a negative"):
        LDT([5, 3], ignore_index=1)(torch.zeros(2, 2), torch.ones(2, 2) / 2)


def test_counts_may_be_tensors_and_a_loss_says_what_it_is() -> None:
    loss = VS(torch.tensor([5, 3]), class_weight="balanced", reduction="sum")
    assert repr(loss) == "VS(2 classes, class_scale offset weight reduction='sum')"
    assert repr(CrossEntropy()) == "CrossEntropy(any number of classes, reduction='mean')"
