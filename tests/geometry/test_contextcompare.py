"""Logits beside labels, spreads and correlations of cosines: loops straight from their definitions, and null levels."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

import tinylabels
from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.conceptorder import strengths
from deltagram.geometry.concepts import collapse
from deltagram.geometry.contextcompare import LogitNumbers, Spread, beyond
from deltagram.geometry.cosinestructure import agreements, cosine_matrix, gram_distance
from deltagram.geometry.factors import centred_factors
from deltagram.geometry.wordpredictors import context_predictors, word_predictors

SEEDS = st.integers(0, 10_000)


def random_logits(labels: LabelMatrix, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(labels.shape) * 3


def by_loops(logits: Any, labels: LabelMatrix) -> dict[str, float]:
    p = labels.probabilities.toarray()
    inside, odds, outside, gap = 0.0, 0.0, 0.0, 0.0
    for j in range(p.shape[1]):
        support = np.flatnonzero(p[:, j])
        own, log = logits[:, j] - logits[:, j].mean(), np.log(p[support, j])
        within = own[support] - own[support].mean()
        rest = own.copy()
        rest[support] = own[support].mean()
        inside += (within**2).sum()
        odds += ((within - (log - log.mean())) ** 2).sum()
        outside += (rest**2).sum()
        gap += labels.weights[j] * (p[support, j] * (log - own[support] + np.log(np.exp(own).sum()))).sum()
    return {"within": inside**0.5, "from_log_odds": odds**0.5, "beyond": outside**0.5, "gap": gap}


@given(SEEDS)
def test_logits_beside_labels_are_what_loops_say(seed: int) -> None:
    labels = tinylabels.counted(seed=seed)
    logits = random_logits(labels, seed)
    found = LogitNumbers.of(logits, labels).data()
    for name, value in by_loops(logits, labels).items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
    assert found["ratio"] == pytest.approx(found["within"] / found["beyond"])
    shifted = LogitNumbers.of(logits + np.arange(labels.shape[1]), labels).data()  # column constants are gauge
    assert shifted == pytest.approx(found, rel=1e-8)


@given(SEEDS)
@settings(max_examples=20)
def test_order_of_words_and_contexts_does_not_count(seed: int) -> None:
    labels = tinylabels.counted(seed=seed)
    logits, p = random_logits(labels, seed), labels.probabilities.toarray()
    rng = np.random.default_rng(seed)
    z, j = rng.permutation(labels.shape[0]), rng.permutation(labels.shape[1])
    moved = LabelMatrix(probabilities=sparse.csc_array(p[z][:, j]), weights=labels.weights[j])
    assert LogitNumbers.of(logits[z][:, j], moved).data() == pytest.approx(LogitNumbers.of(logits, labels).data())
    one, other = (Spread.of(part.T, m.supports.of) for part, m in ((logits, labels), (logits[z][:, j], moved)))
    assert (other.same, other.other) == pytest.approx((one.same, one.other), nan_ok=True)
    a, b = context_predictors(labels)["pmi"], context_predictors(moved)["pmi"]
    np.testing.assert_allclose(b, a[np.ix_(j, j)], atol=1e-12)


def test_ideal_logits_have_no_gap_and_are_the_log_odds() -> None:
    labels = tinylabels.counted()
    p = labels.probabilities.toarray()
    log = np.log(np.where(p > 0, p, 1)) - 60 * (p == 0)
    found = LogitNumbers.of(log, labels)
    assert found.gap == pytest.approx(0, abs=1e-12)
    assert found.from_log_odds == pytest.approx(0, abs=1e-10)
    assert found.within == pytest.approx(found.log_odds)
    part = beyond(log, labels)
    for j in range(labels.shape[1]):
        assert np.ptp(part[p[:, j] > 0, j]) == pytest.approx(0, abs=1e-9)


def test_effective_ranks_are_those_of_the_singular_values() -> None:
    labels = tinylabels.counted()
    logits = np.zeros(labels.shape)
    logits[:2, :2] = 5.0
    assert LogitNumbers.of(logits, labels).rank == pytest.approx(1)


@given(SEEDS)
def test_spreads_are_means_over_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, group = rng.standard_normal((9, 4)), rng.integers(0, 4, 9)
    pairs: dict[bool, list[float]] = {True: [], False: []}
    for i, j in combinations(range(9), 2):
        cosine = vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])
        pairs[bool(group[i] == group[j])].append(1 - cosine)
    found = Spread.of(vectors, group)
    assert found.pairs == len(pairs[True])
    for got, values in ((found.same, pairs[True]), (found.other, pairs[False])):
        assert got == pytest.approx(np.mean(values), abs=1e-12) if values else np.isnan(got)


def test_a_full_support_has_nothing_beyond_it_and_is_left_out() -> None:
    labels = LabelMatrix.of_counts([[1, 1, 3, 0], [1, 0, 1, 2], [1, 1, 0, 1]])
    rest = beyond(random_logits(labels, 0), labels).T
    found, alone = Spread.of(rest, np.array([0, 0, 1, 1])), Spread.of(rest[1:], np.array([0, 1, 1]))
    assert np.abs(rest[0]).max() < 1e-12
    assert found == alone
    assert found.pairs == 1


def test_words_of_equal_rows_are_a_group() -> None:
    labels = LabelMatrix.of_counts([[1, 0, 1], [3, 0, 9], [0, 1, 1], [1, 1, 1]])
    assert collapse(labels).words.tolist() == [0, 0, 1, 2]


@given(SEEDS)
def test_correlations_are_pearsons_over_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, two, three, four = (cosine_matrix(rng.standard_normal((8, 3))) for _ in range(4))
    at = np.triu_indices(8, 1)
    found = agreements(one, {"two": two, "three": three}, permutations=3)
    assert found["two"].correlation == pytest.approx(stats.pearsonr(one[at], two[at])[0], abs=1e-10)
    assert found["three"].correlation == pytest.approx(stats.pearsonr(one[at], three[at])[0], abs=1e-10)
    left = [m - known @ np.linalg.lstsq(known, m, rcond=None)[0]
            for known in [np.stack([np.ones(28), three[at], four[at]], 1)] for m in (one[at], two[at])]  # fmt: skip
    partial = agreements(one, {"two": two}, given=(three, four), permutations=3)["two"]
    assert partial.correlation == pytest.approx(stats.pearsonr(*left)[0], abs=1e-9)
    assert partial.rows == 8


def test_the_null_has_its_level() -> None:
    """Of unrelated cosines the p-value is uniform: at .2, 200 tries miss .2 by 5 deviations of a binomial at most."""
    rng = np.random.default_rng(0)
    levels = {"plain": [], "partial": []}  # type: dict[str, list[float]]
    for seed in range(200):
        one, two, third = (cosine_matrix(rng.standard_normal((10, 3))) for _ in range(3))
        levels["plain"].append(agreements(one, {"x": two}, permutations=39, seed=seed)["x"].p_value)
        mixed = [third + 0.5 * part for part in (one, two)]  # related through `third` alone
        levels["partial"].append(
            agreements(mixed[0], {"x": mixed[1]}, given=(third,), permutations=39, seed=seed)["x"].p_value
        )
    for values in levels.values():
        assert abs(np.mean(np.asarray(values) <= 0.2) - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 200)


def test_what_is_the_same_is_found() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((12, 4))
    turned = vectors @ np.linalg.qr(rng.standard_normal((4, 4)))[0]
    found = agreements(cosine_matrix(vectors), {"x": cosine_matrix(turned)}, permutations=99)["x"]
    assert found.correlation == pytest.approx(1)
    assert found.p_value == pytest.approx(0.01)
    assert gram_distance(cosine_matrix(vectors), cosine_matrix(7 * turned)) == pytest.approx(0, abs=1e-12)
    assert gram_distance(np.diag([1.0, 0]), np.diag([0, 3.0])) == pytest.approx(2**0.5)


def test_what_is_undefined_is_left_out_and_what_is_flat_says_nothing() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6, 3))
    vectors[2] = 0
    one, simplex = cosine_matrix(vectors), cosine_matrix(np.eye(6) - 1 / 6)
    rest = np.delete(np.arange(6), 2)
    other = cosine_matrix(rng.standard_normal((6, 3)))
    found = agreements(one, {"x": other, "flat": simplex})
    alone = agreements(one[np.ix_(rest, rest)], {"x": other[np.ix_(rest, rest)]})
    assert found["x"].rows == 5
    assert found["x"].correlation == pytest.approx(alone["x"].correlation)
    assert np.isnan(found["flat"].correlation)
    assert np.isnan(found["flat"].p_value)


@given(SEEDS)
@settings(max_examples=20)
def test_predictors_are_cosines_of_centred_matrices(seed: int) -> None:
    labels = tinylabels.counted(seed=seed)
    p = labels.probabilities.toarray()
    share = p @ labels.weights
    pmi = np.where(p > 0, np.maximum(np.log(np.where(p > 0, p, 1) / share[:, None]), 0), 0)
    some = np.array([3, 0, 5, 1])
    contexts, words = context_predictors(labels), word_predictors(labels, some)
    for name, matrix in (("support", (p > 0) * 1.0), ("probabilities", p), ("pmi", pmi)):
        centred = matrix - matrix.mean(0)
        np.testing.assert_allclose(contexts[name], cosine_matrix(centred.T), atol=1e-10)
        np.testing.assert_allclose(words[name], cosine_matrix(centred)[np.ix_(some, some)], atol=1e-10)
    assert contexts["frequency"][0, 3] == pytest.approx(-abs(np.log(labels.weights[0] / labels.weights[3])))
    assert words["frequency"][0, 2] == pytest.approx(-abs(np.log(share[3] / share[5])))
    assert labels.context_ids is not None
    last = labels.context_ids[:, -1]
    if 1 < len(set(last.tolist())) < len(last):
        assert contexts["last_token"].tolist() == [[float(a == b) for a in last] for b in last]
    else:
        assert "last_token" not in contexts


def test_the_centred_supports_have_their_own_strengths() -> None:
    labels = tinylabels.counted()
    factors = centred_factors(labels, 4)
    logits = labels.support.toarray() + np.arange(labels.shape[1])
    np.testing.assert_allclose(strengths(logits, factors), factors.sizes, rtol=1e-9)


def test_one_hot_supports_are_a_simplex_and_full_ones_are_nowhere() -> None:
    found = context_predictors(LabelMatrix.of_counts([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]]))["support"]
    np.testing.assert_allclose(found[:3, :3], 1.5 * np.eye(3) - 0.5)
    assert np.isnan(found[3]).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LogitNumbers.of(np.zeros((2, 2)), tinylabels.counted()), "logits: have shape (2, 2), expected (6, 1"),
        (lambda: LogitNumbers.of(np.full((6, 12), np.nan), tinylabels.counted()), "logits: are not all finite"),
        (lambda: agreements(np.eye(4), {"x": np.eye(5)}), "cosines: have shapes [(4, 4), (5, 5)], expected one square"),
        (lambda: agreements(np.eye(2), {"x": np.eye(2)}), "cosines: are defined for 2 vectors, expected 3 or more"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make: Any, says: str) -> None:
    with pytest.raises(SettingError) as fault:
        make()
    assert says in str(fault.value)
