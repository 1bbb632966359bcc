"""Next tokens at a ridge: optimal by the bound and by stationarity, as the oracle, and on its way to the limit."""

from itertools import pairwise

import numpy as np
import pytest

from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.convex import token_ridge_program
from deltagram.geometry.nexttoken import beyond_supports, centred_dense, within_supports
from deltagram.geometry.supportridge import RidgeSolution, law, ridge_path, ridge_solution, zero_from
from deltagram.geometry.supportsvm import max_margin
from tokenworlds import FANO, of_sets, zipf


def labelled(seed: int = 0, words: int = 7, contexts: int = 9) -> LabelMatrix:
    supports = zipf(words, contexts, seed=seed)
    return LabelMatrix.of_counts(supports * np.random.default_rng(seed).integers(1, 6, supports.shape))


def shown(found: RidgeSolution, *, gap: float = 1e-9) -> RidgeSolution:
    """The certificate from its definition, and the stationarity of L."""
    labels, logits = found.labels, found.logits
    e = np.exp(logits - logits.max(0))
    p, q = labels.probabilities.toarray(), e / e.sum(0)
    slope = (p - q) * labels.weights / found.ridge
    np.testing.assert_allclose(found.slope, slope, atol=1e-9 * np.abs(slope).max())
    cross = -(labels.weights * np.where(p > 0, p * np.log(q), 0.0)).sum()
    assert found.primal == pytest.approx(cross + found.ridge * np.linalg.norm(logits, "nuc"), rel=1e-12)
    assert -1e-12 <= found.gap <= gap
    assert np.linalg.norm(slope, 2) == pytest.approx(1, abs=1e-5)
    assert found.balance == pytest.approx(1, abs=1e-5)
    return found


@pytest.mark.parametrize("ridge", [0.03, 3e-3, 3e-4])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_minimum_shows_itself(ridge: float, seed: int) -> None:
    found = shown(ridge_solution(labelled(seed), ridge))
    w, h = found.words, found.contexts
    np.testing.assert_allclose(w.T @ w, h @ h.T, atol=1e-6 * np.abs(w.T @ w).max())  # balanced, as at any minimum


def test_a_convex_solver_finds_the_same() -> None:
    pytest.importorskip("cvxpy")
    labels = labelled(words=5, contexts=6)
    for ridge in (0.05, 0.01):
        found, oracle = ridge_solution(labels, ridge), token_ridge_program(labels, ridge)
        assert found.primal == pytest.approx(oracle.value, abs=1e-7)
        np.testing.assert_allclose(oracle.logits - oracle.logits.mean(0), found.logits, atol=5e-3)


def test_everything_is_zero_from_the_norm_of_the_gradient_on() -> None:
    labels = labelled()
    start = zero_from(labels)
    p = labels.probabilities.toarray()
    assert start == pytest.approx(np.linalg.norm((p - p.mean(0)) * labels.weights, 2))
    at, below = ridge_path(labels, [start * 1.001, start * 0.99])
    assert (at.rank, at.logits.any(), at.geometry().conventions["all"]) == (0, False, "zero")
    assert not at.on.any()
    assert below.rank >= 1
    assert at.slope_norm < 1
    assert abs(at.gap) < 1e-12


def test_towards_the_limit() -> None:
    """Log-odds fast, excess as `ridge ||L_mm||_*`, direction slowly, size as log(1 / ridge)."""
    rng = np.random.default_rng(3)
    sets = [rng.choice(9, 3, replace=False) for _ in range(8)]
    supports = of_sets([held.tolist() for held in sets], 9)
    labels = LabelMatrix.of_counts(supports * rng.integers(1, 4, supports.shape))
    limit = max_margin(labels, tolerance=1e-9)
    found = [law(shown(one, gap=1e-6), limit) for one in ridge_path(labels, [1e-2, 1e-3, 1e-4, 1e-5])]
    errors = [one.log_odds_error for one in found]
    assert all(after < before / 5 for before, after in pairwise(errors[1:]))
    assert found[-1].excess_ratio == pytest.approx(1, abs=0.03)
    cosines = [one.cosine for one in found]
    assert cosines == sorted(cosines)
    assert 0.97 < cosines[-1] < 1 - 1e-4  # slow: no ridge that can be reached is near the limit
    grown = np.diff([one.radius for one in found[1:]]) / np.diff([one.log_ridge for one in found[1:]])
    np.testing.assert_allclose(grown, 1, atol=0.12)


def test_of_a_design_all_is_known() -> None:
    """Fano: every margin is alike, so logits are L_mm at a size that one equation gives."""
    labels = LabelMatrix.of_counts(of_sets(FANO, 7))
    ridge = 1e-3
    found = shown(ridge_solution(labels, ridge))
    proxy = centred_dense(labels)
    size = (found.logits * proxy).sum() / np.square(proxy).sum()
    np.testing.assert_allclose(found.logits, size * proxy, atol=1e-3)
    outside = ridge * 7 * 4 * (3 / 7) / np.sqrt(2)  # ridge / weight times the polar factor off the support, summed
    np.testing.assert_allclose(found.outside, outside, rtol=1e-4)
    assert np.exp(-size) * 4 / 3 == pytest.approx(outside / (1 - outside), rel=1e-3)


def test_rare_contexts_are_switched_on_last() -> None:
    counts = np.array([[900, 0, 0, 0], [0, 90, 0, 0], [0, 0, 9, 0], [0, 0, 0, 1]])
    labels = LabelMatrix.of_counts(counts)
    on = [found.on.tolist() for found in ridge_path(labels, [0.2, 0.02, 0.002, 2e-5])]
    assert [sum(one) for one in on] == sorted(sum(one) for one in on)
    assert on[0] == [True, False, False, False]
    assert on[-1] == [True] * 4
    assert all(one == sorted(one, reverse=True) for one in on)


def test_contexts_of_one_support_draw_together() -> None:
    """N5 and N6: other probabilities, one support; the part beyond supports is nearly one."""
    counts = np.array([[1, 8, 0, 3], [5, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1], [0, 0, 1, 1]])
    labels = LabelMatrix.of_counts(counts)
    apart = []
    for found in ridge_path(labels, [1e-2, 1e-4]):
        rest = beyond_supports(labels, found.logits)
        a, b = (rest - rest.mean(0)).T[:2]
        apart.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert apart[1] < apart[0] / 2
    assert apart[1] < 0.03


def test_fewer_dimensions_cost_and_enough_do_not() -> None:
    labels = labelled()
    full = ridge_solution(labels, 5e-3)
    enough = ridge_solution(labels, 5e-3, dim=full.rank)
    assert enough.primal == pytest.approx(full.primal, rel=1e-7)
    values = [ridge_solution(labels, 5e-3, dim=dim, starts=1) for dim in (3, 2, 1)]
    assert [one.rank for one in values] == [3, 2, 1]
    assert full.primal < values[0].primal < values[1].primal < values[2].primal
    for one in values:
        assert one.dual == pytest.approx(full.dual, rel=1e-9)
        assert one.gap > 1e-4
        assert one.slope_norm > 1
    assert within_supports(labels, full.logits).nnz == labels.probabilities.nnz


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ridge_that_is_none_is_refused(ridge: float) -> None:
    with pytest.raises(SettingError, match=r"ridge: .*expected a positive number; for the limit of zero, give none"):
        ridge_solution(labelled(), ridge)


def test_other_settings_that_make_no_problem_are_refused() -> None:
    with pytest.raises(SettingError, match="dim: is 0, expected 1 or more"):
        ridge_solution(labelled(), 0.1, dim=0)
    counts = np.zeros((1100, 1000), np.int64)
    counts[0] = counts[1, ::2] = 1
    with pytest.raises(SettingError, match=r"1,100 words x 1,000 contexts, expected at most 1,000,000 .*--proxy"):
        ridge_solution(LabelMatrix.of_counts(counts), 0.1)


@pytest.mark.parametrize("seed", [3])
def test_with_rare_contexts_the_weighted_proxy_is_the_better_forecast(seed: int) -> None:
    """Shares of contexts as 1 / rank^2: at a ridge that leaves rare ones out, what is on decides."""
    supports = zipf(12, 30, seed=seed)
    weight = np.ceil(3000 / np.arange(1, 31) ** 2)
    labels = LabelMatrix.of_counts(supports * weight.astype(np.int64))
    limit = max_margin(labels)

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))

    wide, near = ridge_path(labels, [labels.weights[4], labels.weights.min() / 100])
    weighted = cosine(wide.logits, centred_dense(labels, ridge=wide.ridge))
    assert weighted > cosine(wide.logits, centred_dense(labels)) + 0.3
    assert weighted > cosine(wide.logits, limit.logits) + 0.3
    assert cosine(near.logits, limit.logits) > 0.9
