"""The conventions of other implementations: SupContrast's formula, and pytorch-metric-learning as it is."""

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from deltagram.losses import SupervisedContrastive


@pytest.fixture
def sample() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(12, (64,), generator=draw)
    label[0] = 99  # alone in its class
    return torch.randn(64, 16, generator=draw, dtype=torch.float64), label


def sup_contrast(z: torch.Tensor, label: torch.Tensor, *, temperature: float, base: float) -> float:
    """Mean over all anchors of - (t / base) / |P| sum_p log(exp(s_p) / sum_{a != i} exp(s_a)); 0 where P is empty."""
    losses = []
    for i, row in enumerate(z):
        others = [j for j in range(len(z)) if j != i]
        score = {j: float(row @ z[j]) / temperature for j in others}
        away = math.log(sum(math.exp(score[j]) for j in others))
        near = [score[j] - away for j in others if label[j] == label[i]]
        losses.append(-temperature / base * sum(near) / max(len(near), 1))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_sup_contrast_is_the_mean_over_all_anchors_by_the_base_temperature(
    sample: tuple[torch.Tensor, torch.Tensor], temperature: float
) -> None:
    z, label = normalize(sample[0]), sample[1]
    loss = SupervisedContrastive(temperature, divisor="all", base_temperature=0.07)
    expected = sup_contrast(z, label, temperature=temperature, base=0.07)
    assert float(loss(z, label)) == pytest.approx(expected, rel=1e-12)
    assert float(SupervisedContrastive(temperature)(z, label)) != pytest.approx(expected, rel=1e-3)


def test_sup_contrast_of_views(sample: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, label = normalize(sample[0]).view(16, 4, 16), sample[1][:16]
    expected = sup_contrast(z.reshape(64, 16), label.repeat_interleave(4), temperature=0.1, base=0.07)
    found = SupervisedContrastive(0.1, divisor="all", base_temperature=0.07, normalise=False)(z, label)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def peer(temperature: float) -> Any:
    return pytest.importorskip("pytorch_metric_learning.losses").SupConLoss(temperature=temperature)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pytorch_metric_learning_divides_by_the_losses_that_are_not_zero(
    sample: tuple[torch.Tensor, torch.Tensor], temperature: float, dtype: torch.dtype
) -> None:
    loss, other = SupervisedContrastive(temperature, divisor="nonzero"), peer(temperature)
    found, expected = (sample[0].to(dtype).clone().requires_grad_() for _ in range(2))
    value, theirs = loss(found, sample[1]), other(expected, sample[1])
    value.backward()
    theirs.backward()
    torch.testing.assert_close(value, theirs, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-6 * float(expected.grad.abs().max()))  # type: ignore[union-attr]
    other_mean = SupervisedContrastive(temperature, divisor="all")(*sample)
    assert float(other_mean) != pytest.approx(theirs.item(), rel=1e-3)


def test_pytorch_metric_learning_calls_a_batch_of_one_class_zero() -> None:
    """Where the equation gives log(n - 1) or more: documented, not followed."""
    z, label = torch.randn(6, 4), torch.zeros(6).long()
    assert float(peer(0.1)(z, label)) == 0
    assert float(SupervisedContrastive(divisor="nonzero")(z, label)) > math.log(5)


def test_the_inner_mean_differs_from_an_inner_sum_by_a_constant(sample: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Others, solo-learn among them, take -log(sum over positives / sum over all), without 1/|P|."""
    z, label = normalize(sample[0]), sample[1]
    found = SupervisedContrastive(0.2, variant="in", reduction="none")(z, label)
    for i in range(1, len(z)):
        score = (z @ z[i] / 0.2).exp()
        near = (label == label[i]) & (torch.arange(len(z)) != i)
        if near.any():
            summed = -torch.log(score[near].sum() / (score.sum() - score[i]))
            assert float(found[i]) == pytest.approx(float(summed) + math.log(int(near.sum())), rel=1e-10)
