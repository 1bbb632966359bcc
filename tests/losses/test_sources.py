"""The losses as their papers write them: signs, normalisations, recipes; each equation stated here anew."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from deltagram.losses import CDT, LDT, VS, CrossEntropy, LogitAdjusted

COUNTS = np.array([500, 120, 120, 30, 8])
K = len(COUNTS)
EPS64 = float(np.finfo(np.float64).eps)


@pytest.fixture(autouse=True)
def _wide() -> Iterator[None]:
    """Parameters in float64, so that equations can be compared to its rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def sample() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(12, K, generator=draw), torch.randint(K, (12,), generator=draw)


def margins(z: torch.Tensor, y: torch.Tensor, exponent: object) -> float:
    """Mean of log(1 + sum over c != y of exp(exponent(z, y, c))), the form of arXiv 2303.07608."""
    total = 0.0
    for row, label in zip(z.tolist(), y.tolist(), strict=True):
        others = [np.exp(exponent(row, label, c)) for c in range(K) if c != label]  # type: ignore[operator]
        total += np.log1p(sum(others))
    return total / len(y)


def close(found: torch.Tensor, expected: float) -> bool:
    return abs(float(found) - expected) <= 64 * EPS64 * max(1.0, abs(expected))


def test_vs_is_equation_2_with_iota_the_negative_of_the_offset(sample: tuple[torch.Tensor, torch.Tensor]) -> None:
    delta, iota = np.linspace(0.5, 2, K), np.linspace(-1, 3, K)
    expected = margins(*sample, lambda z, y, c: -(delta[y] * z[y] - delta[c] * z[c]) + iota[y] - iota[c])
    assert close(VS(class_scale=delta, offset=-iota)(*sample), expected)
    assert not close(VS(class_scale=delta, offset=iota)(*sample), expected)


def test_cdt_is_equation_3a_and_scales_sum_to_the_number_of_classes(
    sample: tuple[torch.Tensor, torch.Tensor],
) -> None:
    delta = COUNTS**0.7 * K / (COUNTS**0.7).sum()
    expected = margins(*sample, lambda z, y, c: -(delta[y] * z[y] - delta[c] * z[c]))
    loss = CDT(COUNTS, gamma=0.7)
    assert close(loss(*sample), expected)
    assert float(loss.class_scale.sum()) == pytest.approx(K, rel=K * EPS64)


def test_ldt_is_equation_3b(sample: tuple[torch.Tensor, torch.Tensor]) -> None:
    delta = np.sqrt(COUNTS) * K / np.sqrt(COUNTS).sum()
    expected = margins(*sample, lambda z, y, c: -delta[y] * (z[y] - z[c]))
    assert close(LDT(COUNTS)(*sample), expected)
    assert not close(CDT(COUNTS)(*sample), expected)


def test_la_adds_the_log_prior_and_asks_more_of_the_rare(sample: tuple[torch.Tensor, torch.Tensor]) -> None:
    prior = COUNTS / COUNTS.sum()
    expected = margins(*sample, lambda z, y, c: z[c] - z[y] + 1.5 * (np.log(prior[c]) - np.log(prior[y])))
    loss = LogitAdjusted(COUNTS, tau=1.5, reduction="none")
    assert close(loss(*sample).mean(), expected)
    equal = loss(torch.zeros(K, K), torch.arange(K))
    assert bool((equal.diff() >= 0).all())
    balanced = COUNTS * np.exp(sample[0].numpy())  # balanced softmax is tau = 1
    softmax = balanced[range(12), sample[1]] / balanced.sum(1)
    assert close(LogitAdjusted(COUNTS)(*sample), -np.log(softmax).mean())


@pytest.mark.parametrize("gamma", [0.3, -0.4])
def test_vs_from_counts_divides_by_temperatures_of_which_the_least_is_1(
    sample: tuple[torch.Tensor, torch.Tensor], gamma: float
) -> None:
    z, y = sample
    temperature = (1 / COUNTS) ** gamma
    temperature /= temperature.min()
    logits = z / torch.tensor(temperature) + 0.8 * torch.tensor(np.log(COUNTS / COUNTS.sum()))
    expected = torch.nn.functional.cross_entropy(logits, y)
    assert close(VS(COUNTS, gamma=gamma, tau=0.8)(z, y), float(expected))


def test_settings_unless_given(sample: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert VS(COUNTS)(*sample) == VS(COUNTS, gamma=0.3, tau=1.0)(*sample)
    assert CDT(COUNTS)(*sample) == CDT(COUNTS, gamma=0.5, normalise="sum")(*sample) == CDT.aligned(COUNTS)(*sample)
    assert LDT(COUNTS)(*sample) == LDT(cls_num_list=COUNTS, gamma=0.5)(*sample)
    bare = CDT(COUNTS, gamma=1, normalise="none").class_scale.numpy()
    assert bare == pytest.approx(COUNTS, rel=8 * EPS64 * np.log(COUNTS.max()))


@pytest.mark.parametrize("kappa", [None, 0.02])
@pytest.mark.parametrize("share", [0.9, 0.3, 1e-6])
def test_the_symmetric_recipe_is_stationary_at_the_simplex(kappa: float | None, share: float) -> None:
    """No gradient of sum of losses + lambda/2 (|W|^2 + |H|^2) at X = alpha (I - 11^T/k), at any lambda and counts."""
    loss, n = LDT.symmetric(COUNTS, kappa=kappa, reduction="sum"), COUNTS.sum()
    kappa = K / np.sqrt(COUNTS).sum() if kappa is None else kappa
    ridge = share * kappa * n / K
    alpha = np.log(kappa * n / ridge - K + 1) / kappa
    label = torch.tensor(np.repeat(np.arange(K), COUNTS))
    simplex = torch.eye(K) - 1 / K
    w = (np.sqrt(alpha) * simplex).requires_grad_()
    h = (np.sqrt(alpha) * simplex[label] / torch.tensor(np.sqrt(COUNTS))[label, None]).requires_grad_()
    (loss(h @ w.T, label) + ridge / 2 * ((w**2).sum() + (h**2).sum())).backward()
    for part in (w, h):
        assert part.grad is not None
        assert float(part.grad.norm()) <= 1e-10 * ridge * float(part.detach().norm())
    plain = LDT(COUNTS, reduction="sum")  # without weights it is not: the test can fail
    bare = w.detach().clone().requires_grad_()
    (plain(h.detach() @ bare.T, label) + ridge / 2 * (bare**2).sum()).backward()
    assert bare.grad is not None
    assert float(bare.grad.norm()) > 1e-3 * ridge * float(bare.detach().norm())


def test_weights_by_a_power_of_the_counts_have_mean_1_over_the_samples() -> None:
    for power in (0.0, 0.5, 1.0):
        weight = CrossEntropy.inverse_power(COUNTS, power=power).weight.numpy()
        assert weight * COUNTS**power == pytest.approx(weight[0] * COUNTS[0] ** power)
        assert (weight * COUNTS).sum() == pytest.approx(COUNTS.sum())
    balanced = CrossEntropy(class_counts=COUNTS, class_weight="balanced").weight.numpy()
    assert balanced == pytest.approx(CrossEntropy.inverse_power(COUNTS, power=1.0).weight.numpy())
