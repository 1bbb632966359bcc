"""Laws of random dropping, against all masks of few entries and against our own masks."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deltagram.arrays import F64
from deltagram.delta import bounds, moments
from deltagram.delta.masks import Bernoulli, Mask, Stratified
from enumeration import changes, independent, of_count, one_a_stratum

EPS = float(np.finfo(np.float64).eps)
KEEPS = (0.9, 0.5, 0.1, 0.01)
GAMMAS = (0.5, 0.05, 0.009, 0.001)

sound = st.floats(1e-9, 100) | st.floats(-100, -1e-9) | st.just(0.0)  # squares do not underflow
terms_of = hnp.arrays(np.float64, st.integers(1, 9), elements=sound)
shares = st.floats(0.01, 1.0)
divisors = st.floats(0.01, 10.0)


def scale(c: F64, q: float) -> float:
    """The largest |h| can be."""
    return float(np.abs(c).sum()) * (1 + 1 / q)


@given(terms_of, shares, divisors)
@settings(max_examples=150, deadline=None)
def test_moments_are_those_of_all_independent_masks(c: F64, keep: float, q: float) -> None:
    masks, chance = independent(c.size, keep)
    h = changes(c, masks, q)
    found = moments.bernoulli(*moments.sums(c), keep=keep, divide_by=q)
    close = 8 * EPS * masks.shape[0]
    mean = h @ chance
    assert found.mean == pytest.approx(mean, abs=close * scale(c, q))
    assert found.variance == pytest.approx((h - mean) ** 2 @ chance, abs=close * scale(c, q) ** 2)
    assert found.mean_square == pytest.approx(h**2 @ chance, abs=close * scale(c, q) ** 2)
    total, squares = moments.sums(c)
    layer = moments.mean_square(total**2, squares, keep=keep, divide_by=q)
    assert layer == pytest.approx(h**2 @ chance, abs=close * scale(c, q) ** 2)


@given(terms_of, st.data(), divisors)
@settings(max_examples=100, deadline=None)
def test_moments_of_a_fixed_count_are_those_of_all_its_masks(c: F64, data: st.DataObject, q: float) -> None:
    kept = data.draw(st.integers(1, c.size))
    h = changes(c, of_count(c.size, kept), q)
    found = moments.fixed_count(c, kept=kept, divide_by=q)
    close = 8 * EPS * h.size
    assert found.mean == pytest.approx(h.mean(), abs=close * scale(c, q))
    assert found.variance == pytest.approx(h.var(), abs=close * scale(c, q) ** 2)


@given(terms_of, st.data(), divisors)
@settings(max_examples=100, deadline=None)
def test_moments_of_strata_are_those_of_all_their_masks(c: F64, data: st.DataObject, q: float) -> None:
    kept = data.draw(st.integers(1, c.size))
    edges = [i * (c.size // kept) + i * (c.size % kept) // kept for i in range(kept + 1)]
    masks, chance = one_a_stratum(edges)
    h = changes(c, masks, q)
    found = moments.stratified(c, kept=kept, divide_by=q)
    close = 8 * EPS * h.size
    assert found.mean == pytest.approx(h @ chance, abs=close * scale(c, q))
    assert found.variance == pytest.approx(h.var(), abs=close * scale(c, q) ** 2)


def test_a_fixed_count_takes_the_common_part_out_of_the_variance() -> None:
    c = np.full(10, 3.0)
    assert moments.fixed_count(c, kept=2, divide_by=0.2).variance == 0
    assert moments.stratified(c, kept=2, divide_by=0.2).variance == 0
    assert moments.bernoulli(*moments.sums(c), keep=0.2, divide_by=0.2).variance == pytest.approx(4 * 90)


def test_a_layer_is_the_mean_over_tokens_and_the_sum_over_neurons() -> None:
    rng = np.random.default_rng(1)
    delta, inputs = rng.standard_normal((2, 4)), rng.standard_normal((3, 4))
    signal, squares = moments.layer_sums(delta, inputs)
    masks, chance = independent(8, 0.3)
    expected = 0.0
    for mask, weight in zip(masks, chance, strict=True):
        pruned = delta * mask.reshape(2, 4) / 0.7
        for x in inputs:
            expected += weight * float(np.sum((delta @ x - pruned @ x) ** 2)) / len(inputs)
    found = moments.mean_square(signal.sum(), squares.sum(), keep=0.3, divide_by=0.7)
    assert found == pytest.approx(expected, rel=EPS * masks.size)


@pytest.mark.parametrize("keep", KEEPS)
def test_no_divisor_has_a_smaller_enumerated_mean_square(keep: float) -> None:
    rng = np.random.default_rng(2)
    masks, chance = independent(8, keep)
    for c in rng.standard_t(2, (40, 8)) + rng.choice([0.0, 1.0], (40, 1)):
        total, squares = moments.sums(c)
        best = float(moments.best_divisor(total**2, squares, keep=keep))
        grid = best * np.geomspace(1 / 5, 5, 401)
        grid[200] = best
        error = np.array([changes(c, masks, q) ** 2 @ chance for q in grid])
        assert np.argmin(error) == 200
        least = moments.least_mean_square(total**2, squares, keep=keep)
        assert least == pytest.approx(error[200], rel=1e-9)


def test_the_family_of_divisors_runs_from_dare_to_the_optimum() -> None:
    signal, squares = np.array([4.0, 1.0, 0.0, 0.0]), np.array([1.0, 5.0, 2.0, 0.0])
    assert moments.best_divisor(signal, squares, keep=0.1, tau=0.0).tolist() == [0.1] * 4
    assert moments.best_divisor(signal, squares, keep=0.1).tolist() == pytest.approx([0.325, 4.6, math.inf, 0.1])
    assert moments.best_divisor(signal, squares, keep=1.0).tolist() == [1.0] * 4
    taus = np.linspace(0, 1, 30)
    error = moments.mean_square(4.0, 1.0, keep=0.1, divide_by=moments.best_divisor(4.0, 1.0, keep=0.1, tau=taus))
    assert np.all(np.diff(error) < 0)
    nothing = moments.bernoulli(3.0, 9.0, keep=0.1, divide_by=math.inf)
    assert (nothing.mean, nothing.variance) == (3.0, 0.0)
    assert moments.least_mean_square(0.0, 0.0, keep=0.1) == 0


@pytest.mark.parametrize("z", [0.0, 0.3, -1.0, 8.0])
def test_the_folded_normal_is_scipys(z: float) -> None:
    from scipy.stats import foldnorm  # noqa: PLC0415

    change = moments.Moments(mean=np.array([z * 2.5, z]), variance=np.array([2.5**2, 0.0]))
    assert change.mean_absolute[0] == pytest.approx(foldnorm.mean(abs(z), scale=2.5), rel=1e-9)
    assert change.mean_absolute[1] == abs(z)


def drawn(name: str, size: int, keep: int, key: int) -> Mask:
    if name == "stratified":
        return Stratified(size=size, keep=keep, key=key)
    return Bernoulli.draw(size=size, key=key, threshold=round(keep / size * 2**32))


@pytest.mark.parametrize("name", ["stratified", "bernoulli"])
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_our_masks_move_outputs_as_the_moments_say(name: str, factor: float) -> None:
    """Mean and variance of h of 4 neurons over 600 masks, each within 5 sigma; and E |h| of the normal near it."""
    rows, cols, keep, draws = 4, 600, 120, 600
    size = rows * cols
    rng = np.random.default_rng(3)
    delta, x = rng.standard_normal((rows, cols)) + 2, np.abs(rng.standard_normal(cols))
    c, q = delta * x, keep / size * factor
    h = np.empty((draws, rows))
    for key in range(draws):
        mask = drawn(name, size, keep, key)
        at = mask.positions(0, mask.keep).astype(np.int64)
        h[key] = c.sum(1) - np.bincount(at // cols, weights=c.ravel()[at], minlength=rows) / q
    alone = moments.bernoulli(*moments.sums(c), keep=keep / size, divide_by=q)
    padded = np.zeros((rows, rows, cols))
    padded[range(rows), range(rows)] = c
    expected = moments.stratified(padded.reshape(rows, size), kept=keep, divide_by=q) if name == "stratified" else alone
    assert np.all(np.abs(h.mean(0) - expected.mean) < 5 * np.sqrt(expected.variance / draws))
    away = (h - expected.mean) ** 2
    assert np.all(np.abs(away.mean(0) - expected.variance) < 5 * away.std(0) / math.sqrt(draws))
    assert np.all(np.abs(np.abs(h).mean(0) - expected.mean_absolute) < 6 * np.abs(h).std(0) / math.sqrt(draws))
    if name == "stratified":  # the law for independent masks is another one
        assert np.any(np.abs(away.mean(0) - alone.variance) > 5 * away.std(0) / math.sqrt(draws))


def random_terms(rng: np.random.Generator, n: int) -> F64:
    """56 neurons: light and heavy tails, one sign, alternating, equal, and one term above all others."""
    kinds = [
        rng.standard_normal((8, n)), rng.standard_cauchy((8, n)), np.abs(rng.standard_normal((8, n))),
        rng.choice([-1.0, 1.0], (8, n)), np.exp(3 * rng.standard_normal((8, n))),
        rng.standard_normal((8, n)) * 1e-3 + np.eye(n)[rng.integers(0, n, 8)], np.ones((8, n)),
    ]  # fmt: skip
    return np.concatenate(kinds)


def exceeding(c: F64, bound: F64, *, keep: float, q: float) -> F64:
    """P(|h| > bound) of each neuron, over all masks."""
    masks, chance = independent(c.shape[1], keep)
    beyond = np.abs(changes(c, masks, q)) > bound[:, np.newaxis] * (1 + 8 * EPS * c.shape[1])
    return np.asarray(beyond @ chance)


CASES = list(product(KEEPS, (1.0, 2.0, 30.0)))


@pytest.mark.parametrize(("keep", "factor"), CASES)
def test_the_valid_bounds_hold_over_all_masks(keep: float, factor: float) -> None:
    rng = np.random.default_rng(4)
    for n in range(1, 11):
        c, q = random_terms(rng, n), keep * factor
        total, squares = moments.sums(c)
        for gamma in GAMMAS:
            saul = bounds.kearns_saul(total, squares, keep=keep, divide_by=q, gamma=gamma)
            bern = bounds.bernstein(total, squares, np.abs(c).max(1), keep=keep, divide_by=q, gamma=gamma)
            assert np.all(exceeding(c, saul, keep=keep, q=q) <= gamma)
            assert np.all(exceeding(c, bern, keep=keep, q=q) <= gamma)


def test_a_bound_a_tenth_tighter_would_be_caught() -> None:
    one = np.ones((1, 1))
    saul = bounds.kearns_saul(1.0, 1.0, keep=0.01, divide_by=0.01, gamma=0.009)
    assert exceeding(one, np.array([saul]), keep=0.01, q=0.01) == 0
    assert exceeding(one, np.array([0.9 * saul]), keep=0.01, q=0.01) == pytest.approx(0.01)
    bern = bounds.bernstein(10.0, 10.0, 1.0, keep=0.1, divide_by=0.1, gamma=0.001)
    assert exceeding(np.ones((1, 10)), np.array([0.6 * bern]), keep=0.1, q=0.1) > 0.001


@pytest.mark.parametrize(
    ("keep", "gamma", "size", "chance", "says"), [(0.01, 0.009, 99.0, 0.01, 32.7), (0.9, 0.09, 1.0, 0.1, 0.712)]
)
def test_the_printed_theorem_fails_for_one_term(
    keep: float, gamma: float, size: float, chance: float, says: float
) -> None:
    """|h| is `size` with probability `chance` > gamma, the printed bound is below it, Eq. 8 above."""
    h = changes(np.ones(1), independent(1, keep)[0], keep)
    assert np.max(np.abs(h)) == pytest.approx(size)
    bound = bounds.printed(np.ones(1), keep=keep, gamma=gamma)
    assert bound[0] == pytest.approx(says, rel=1e-2)
    assert exceeding(np.ones((1, 1)), bound, keep=keep, q=keep) == pytest.approx(chance)
    assert bounds.kearns_saul(1.0, 1.0, keep=keep, divide_by=keep, gamma=gamma) > size


@pytest.mark.parametrize("keep", [0.9, 0.1, 0.01])
def test_the_printed_theorem_fails_often(keep: float) -> None:
    rng = np.random.default_rng(5)
    failed = 0
    for n in range(1, 11):
        c = random_terms(rng, n)
        for gamma in (0.09, *GAMMAS):
            bound = bounds.printed(moments.sums(c)[1], keep=keep, gamma=gamma)
            failed += int(np.sum(exceeding(c, bound, keep=keep, q=keep) > gamma))
    assert failed > 200  # of 2,800


def test_phi_is_smooth_symmetric_and_the_least_sub_gaussian_factor() -> None:
    p = np.concatenate([np.linspace(0.001, 0.999, 999), 0.5 + np.array([1e-9, -1e-6, 1e-3])])
    assert bounds.phi(1 - p) == pytest.approx(bounds.phi(p), rel=1e-12)
    assert float(bounds.phi(0.5 + 1e-9)) == pytest.approx(0.5, rel=1e-12)
    # E exp(t (X - keep)) <= exp(t^2 Phi/4) for all t, with equality at t = 2 log((1-keep)/keep)
    keep = np.array([0.01, 0.2, 0.7, 0.999])
    for t in np.linspace(-30, 30, 601):
        assert np.all(np.log(1 - keep + keep * np.exp(t)) - t * keep <= t**2 * bounds.phi(keep) / 4 * (1 + 1e-9))
    t = 2 * np.log((1 - keep) / keep)
    assert np.log(1 - keep + keep * np.exp(t)) - t * keep == pytest.approx(t**2 * bounds.phi(keep) / 4, rel=1e-12)


def test_bernstein_is_the_tighter_one_for_many_small_terms_at_high_p() -> None:
    c = np.random.default_rng(6).standard_normal(4096)
    total, squares = moments.sums(c)
    saul = bounds.kearns_saul(total, squares, keep=0.01, divide_by=0.01, gamma=0.05)
    bern = bounds.bernstein(total, squares, np.abs(c).max(), keep=0.01, divide_by=0.01, gamma=0.05)
    assert bern < 0.6 * saul


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the share kept lies in \(0, 1\], not 0"):
        moments.bernoulli(1.0, 1.0, keep=0.0, divide_by=1.0)
    with pytest.raises(ValueError, match="a divisor is positive, not -1"):
        moments.mean_square(1.0, 1.0, keep=0.5, divide_by=-1.0)
    with pytest.raises(ValueError, match="tau is 0 or more"):
        moments.best_divisor(1.0, 1.0, keep=0.5, tau=-0.1)
    with pytest.raises(ValueError, match="gamma is a probability between 0 and 1, not 1"):
        bounds.printed(1.0, keep=0.5, gamma=1.0)
