"""Laws of every loss: the equation in a slow loop, torch where parameters are neutral, gradients, extremes, buffers."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from deltagram.losses import CDT, LDT, VS, CrossEntropy, LogitAdjusted

Loss = Any
EPS64 = float(np.finfo(np.float64).eps)
IGNORED = -100


def drawn(classes: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "counts": rng.integers(1, 1000, classes), "scale": rng.uniform(0.2, 3, classes),
        "offset": rng.normal(0, 2, classes), "weight": rng.uniform(0.1, 4, classes),
        "few": rng.choice([0.5, 1.5], classes),
    }  # fmt: skip


# A new loss is tested by its row: how it is made of drawn parameters, and the options that all losses have.
LOSSES: dict[str, Callable[..., Loss]] = {
    "CE": lambda p, **given: CrossEntropy(class_counts=p["counts"], **given),
    "CE weight": lambda p, **given: CrossEntropy(p["weight"], **given),
    "CE balanced": lambda p, **given: CrossEntropy(class_counts=p["counts"], class_weight="balanced", **given),
    "LA": lambda p, **given: LogitAdjusted(p["counts"], tau=1.3, **given),
    "LA offset": lambda p, **given: LogitAdjusted(offset=p["offset"], weight=p["weight"], **given),
    "CDT": lambda p, **given: CDT(p["counts"], gamma=0.4, **given),
    "CDT max": lambda p, **given: CDT(p["counts"], gamma=-0.7, normalise="max", **given),
    "CDT scale": lambda p, **given: CDT(class_scale=p["scale"], weight=p["weight"], **given),
    "LDT": lambda p, **given: LDT(cls_num_list=p["counts"], **given),
    "LDT few scales": lambda p, **given: LDT(label_scale=p["few"], weight=p["weight"], **given),
    "LDT symmetric": lambda p, **given: LDT(p["counts"], class_weight="balanced", **given),
    "VS": lambda p, **given: VS(p["counts"], tau=0.7, gamma=0.2, **given),
    "VS all": lambda p, **given: VS(
        class_scale=p["scale"], label_scale=p["few"], offset=p["offset"], weight=p["weight"], **given
    ),
}
NEUTRAL: dict[str, Callable[..., Loss]] = {
    "CE": lambda k, **given: CrossEntropy(class_counts=[9] * k, **given),
    "LA": lambda k, **given: LogitAdjusted([7] * k, tau=0, **given),
    "LA offset": lambda k, **given: LogitAdjusted(offset=[0.0] * k, **given),
    "CDT": lambda k, **given: CDT(range(1, k + 1), gamma=0, **given),
    "LDT": lambda k, **given: LDT([50] * k, gamma=0.5, **given),
    "VS": lambda k, **given: VS(range(1, k + 1), gamma=0, tau=0, **given),
    "VS all": lambda k, **given: VS(class_scale=[1] * k, label_scale=[1] * k, offset=[0] * k, **given),
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def label_of(shape: tuple[int, ...], classes: int, *, ignored: float = 0.0) -> torch.Tensor:
    label = torch.randint(classes, shape)
    return torch.where(torch.rand(shape) < ignored, IGNORED, label)


def slow(loss: Loss, logits: Any, target: Any, *, k: int) -> Any:
    """The definition, a number at a time; `logits` (row, class), `target` (row) or (row, class)."""

    def numbers(name: str, neutral: float) -> list[float]:
        found = getattr(loss, name)
        return [neutral] * k if found is None else found.tolist()

    by, label_by = numbers("class_scale", 1.0), numbers("label_scale", 1.0)
    offset, weight = numbers("offset", 0.0), numbers("weight", 1.0)

    def of_label(z: list[float], y: int) -> float:
        u = [label_by[y] * by[c] * z[c] + offset[c] for c in range(k)]
        top = max(u)
        return weight[y] * (top + math.log(sum(math.exp(value - top) for value in u)) - u[y])

    losses, divisor = [], 0.0
    for z, y in zip(logits, target, strict=True):
        if isinstance(y, list):
            share, divisor = [(1 - loss.label_smoothing) * p + loss.label_smoothing / k for p in y], divisor + 1
        elif y == loss.ignore_index:
            share = [0.0] * k
        else:
            share = [(1 - loss.label_smoothing) * (c == y) + loss.label_smoothing / k for c in range(k)]
            divisor += weight[y]
        losses.append(sum(share[c] * of_label(z, c) for c in range(k)))
    return {"none": losses, "sum": sum(losses), "mean": sum(losses) / divisor if divisor else math.nan}[loss.reduction]


def assert_equal(found: torch.Tensor, expected: Any, *, classes: int, terms: int) -> None:
    """Within the rounding of sums of so many terms of size 100 at most."""
    atol = 16 * EPS64 * classes * max(terms, 1) * 100
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=1e-12, atol=atol, equal_nan=True)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_each_loss_is_its_equation(name: str, reduction: str, data: st.DataObject) -> None:
    classes, rows = data.draw(st.integers(2, 6)), data.draw(st.integers(0, 7))
    smoothing, soft = data.draw(st.sampled_from([0.0, 0.1, 1.0])), data.draw(st.booleans())
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    parts = drawn(classes, data.draw(st.integers(0, 2**16)))
    loss = LOSSES[name](parts, reduction=reduction, label_smoothing=smoothing)
    z = torch.randn(rows, classes, dtype=torch.float64) * 5
    target = torch.rand(rows, classes).double() if soft else label_of((rows,), classes, ignored=0.2)
    if rows or (reduction != "mean" and not soft):
        expected = slow(loss, z.tolist(), target.tolist(), k=classes)
        assert_equal(loss(z, target), expected, classes=classes, terms=rows)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_more_axes_are_more_rows_and_none_is_one(name: str, soft: bool, smoothing: float) -> None:
    parts = drawn(4, 3)
    z = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    target = torch.rand(3, 4, 2, 5).double() if soft else label_of((3, 2, 5), 4, ignored=0.2)
    flat = z.movedim(1, -1).reshape(-1, 4)
    rows = target.movedim(1, -1).reshape(-1, 4) if soft else target.reshape(-1)
    for reduction in ("none", "mean", "sum"):
        loss = LOSSES[name](parts, reduction=reduction, label_smoothing=smoothing)
        expected = loss(flat, rows)
        found = loss(z, target)
        assert found.shape == ((3, 2, 5) if reduction == "none" else ())
        torch.testing.assert_close(found.reshape(-1), expected.reshape(-1), rtol=1e-12, atol=1e-12)
        one = loss(flat[0], rows[0])
        assert one.shape == ()
        torch.testing.assert_close(one, loss(flat[:1], rows[:1]).reshape(()), rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4), (3, 5, 2, 2), (5,), (0, 5)])
def test_neutral_parameters_give_what_torch_gives(
    name: str, reduction: str, smoothing: float, weighted: bool, shape: tuple[int, ...]
) -> None:
    weight = torch.rand(5) + 0.5 if weighted else None
    loss = NEUTRAL[name](5, reduction=reduction, label_smoothing=smoothing, weight=weight)
    z = torch.randn(shape)
    places = (*shape[:1], *shape[2:]) if len(shape) > 1 else ()
    for target in (label_of(places, 5, ignored=0.3), torch.rand(shape), torch.full(places, IGNORED)):
        if not z.numel() and target.is_floating_point():
            continue  # torch divides by zero rows
        expected = cross_entropy(z, target, weight, reduction=reduction, label_smoothing=smoothing)
        torch.testing.assert_close(loss(z, target), expected, equal_nan=True)


def test_another_ignored_label_may_be_a_class_or_none() -> None:
    z = torch.randn(40, 5)
    for ignored in (3, 255, -1):
        label = torch.where(torch.rand(40) < 0.3, ignored, torch.randint(3, (40,)))
        for name, make in NEUTRAL.items():
            for smoothing in (0.0, 0.1):
                loss = make(5, ignore_index=ignored, label_smoothing=smoothing)
                expected = cross_entropy(z, label, ignore_index=ignored, label_smoothing=smoothing)
                torch.testing.assert_close(loss(z, label), expected, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name", LOSSES)
def test_smoothing_is_the_expectation_over_smoothed_labels(name: str) -> None:
    parts = drawn(6, 1)
    z, label = torch.randn(9, 6).double(), label_of((9,), 6)
    mixed = 0.7 * torch.nn.functional.one_hot(label, 6).double() + 0.3 / 6
    smoothed = LOSSES[name](parts, reduction="none", label_smoothing=0.3)
    torch.testing.assert_close(smoothed(z, label), LOSSES[name](parts, reduction="none")(z, mixed))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_values_and_gradients_are_finite_at_large_logits(name: str, dtype: torch.dtype, size: float) -> None:
    for smoothing in (0.0, 0.1):
        loss = LOSSES[name](drawn(5, 2), label_smoothing=smoothing)
        z = torch.zeros(5, 5, dtype=dtype)
        z[torch.arange(5), [1, 1, 3, 0, 4]] = size
        z.requires_grad_()
        value = loss(z, torch.arange(5))
        value.backward()
        assert z.grad is not None
        assert bool(value.isfinite())
        assert bool(z.grad.isfinite().all())


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_samples_and_the_names_of_classes_do_not_matter(name: str) -> None:
    parts = drawn(6, 4)
    z, label = torch.randn(20, 6).double(), label_of((20,), 6, ignored=0.2)
    samples, classes = torch.randperm(20), torch.randperm(6)
    renamed = torch.where(label == IGNORED, IGNORED, torch.argsort(classes)[label.clamp(0)])
    for smoothing in (0.0, 0.1):
        loss = LOSSES[name](parts, label_smoothing=smoothing)
        other = LOSSES[name]({key: value[classes] for key, value in parts.items()}, label_smoothing=smoothing)
        torch.testing.assert_close(loss(z[samples], label[samples]), loss(z, label))
        # float32 parameters made in another order may differ in their last bit
        torch.testing.assert_close(other(z[:, classes], renamed), loss(z, label), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_are_those_of_the_value(name: str, soft: bool) -> None:
    for smoothing, shape in ((0.0, (4, 3)), (0.2, (2, 3, 2))):
        loss = LOSSES[name](drawn(3, 5), label_smoothing=smoothing)
        z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        target = torch.rand(shape).double() if soft else label_of((shape[0], *shape[2:]), 3)
        assert torch.autograd.gradcheck(lambda x, loss=loss, target=target: loss(x, target), z)
        assert torch.autograd.gradgradcheck(lambda x, loss=loss, target=target: loss(x, target), z)


def test_soft_targets_have_gradients_as_in_torch() -> None:
    z = torch.randn(4, 3, dtype=torch.float64)
    target = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    for make in LOSSES.values():
        loss = make(drawn(3, 5))
        assert torch.autograd.gradcheck(lambda p, loss=loss: loss(z, p), target)


@pytest.mark.parametrize("name", LOSSES)
def test_state_dict_and_dtype_follow(name: str) -> None:
    loss, other = LOSSES[name](drawn(5, 6)), LOSSES[name](drawn(5, 7))
    z, label = torch.randn(8, 5), label_of((8,), 5)
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other(z, label), loss(z, label), rtol=0, atol=0)
    assert set(loss.state_dict()) == {key for key, _ in loss.named_buffers()}
    assert not list(loss.parameters())
    wide = loss.to(torch.float64)
    assert all(buffer.dtype == torch.float64 for buffer in wide.buffers())
    torch.testing.assert_close(wide(z, label), other(z, label))
    assert all(buffer.is_meta for buffer in other.to("meta").buffers())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    z, label = (torch.randn(8, 5) * 9).to(dtype), label_of((8,), 5)
    for smoothing in (0.0, 0.1):
        loss = LOSSES[name](drawn(5, 8), label_smoothing=smoothing)
        expected = loss(z.float(), label)
        assert expected.dtype == torch.float32
        torch.testing.assert_close(loss(z, label), expected, rtol=0, atol=0)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(loss(z, label), expected, rtol=0, atol=0)
        soft = torch.rand(8, 5).to(dtype)
        torch.testing.assert_close(loss(z, soft), loss(z.float(), soft.float()), rtol=0, atol=0)


def test_bytes_are_labels_too() -> None:
    z, label = torch.randn(8, 5), torch.randint(5, (8,))
    for make in LOSSES.values():
        loss = make(drawn(5, 9))
        torch.testing.assert_close(loss(z, label.to(torch.uint8)), loss(z, label), rtol=0, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_torch_compile_sees_one_graph(name: str) -> None:
    loss = LOSSES[name](drawn(5, 9))
    z, label = torch.randn(8, 5), label_of((8,), 5, ignored=0.2)
    torch.compiler.reset()
    traced = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(z, label), loss(z, label), rtol=0, atol=0)
