"""Words and contexts: Grams, comparison from thin products against dense ones, JSON, concepts, few dimensions."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import sparse

from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.concepts import collapse, directions, orthants
from deltagram.geometry.factors import Factors, centred_factors
from deltagram.geometry.lowdimension import low_dimension
from deltagram.geometry.supportdual import uniqueness
from deltagram.geometry.supportprogram import SupportProgram
from deltagram.geometry.supportsvm import max_margin
from deltagram.geometry.wordcontext import WordContext, compare_tokens, cosine_correlation
from tokenworlds import NOT_EXACT, SUPPORTS, of_sets, zipf


def root(matrix: np.ndarray) -> np.ndarray:
    sizes, axes = np.linalg.eigh(matrix)
    return (axes * np.sqrt(np.maximum(sizes, 0))) @ axes.T


def test_grams_are_roots_of_the_logits() -> None:
    labels = LabelMatrix.of_counts(zipf(9, 14))
    found = max_margin(labels, tolerance=1e-10)
    geometry, logits = found.geometry(labels), found.logits
    np.testing.assert_allclose(geometry.words.dense(), root(logits @ logits.T), atol=1e-5)
    np.testing.assert_allclose(geometry.contexts.dense(), root(logits.T @ logits), atol=1e-5)
    np.testing.assert_allclose(geometry.logits(), logits, atol=1e-6)
    some = np.array([2, 0])
    np.testing.assert_array_equal(geometry.logits(some, some), geometry.logits()[some][:, some])
    np.testing.assert_array_equal(geometry.word_cosines(some), geometry.word_cosines()[some])


def drawn(seed: int, *, words: int = 6, contexts: int = 9, dim: int = 4) -> WordContext:
    rng = np.random.default_rng(seed)
    return WordContext.of_vectors(
        rng.standard_normal((words, dim)) + 3, rng.standard_normal((contexts, dim)), name=f"drawn {seed}"
    )


def test_comparison_is_that_of_dense_matrices() -> None:
    one, other = drawn(0), drawn(1, dim=5)
    found = compare_tokens(one, other)

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b)))

    def alike(a: np.ndarray, b: np.ndarray) -> float:
        off = ~np.eye(len(a), dtype=bool)
        return float(np.corrcoef(a[off], b[off])[0, 1])

    assert found.words == pytest.approx(apart(one.words.dense(), other.words.dense()))
    assert found.contexts == pytest.approx(apart(one.contexts.dense(), other.contexts.dense()))
    assert found.logits == pytest.approx(apart(one.logits(), other.logits()))
    assert found.word_correlation == pytest.approx(alike(one.word_cosines(), other.word_cosines()))
    assert found.context_correlation == pytest.approx(alike(one.context_cosines(), other.context_cosines()))


def test_rotation_scale_and_a_shift_of_words_do_not_count() -> None:
    one = drawn(2)
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((4, 4)))[0]
    w, h = one.word_vectors @ turn * 3 + np.ones(4), one.context_vectors @ turn * 0.2
    found = compare_tokens(WordContext.of_vectors(w, h, name="turned"), one)
    assert max(found.words, found.contexts, found.logits or 0.0) < 1e-7
    assert min(found.word_correlation, found.context_correlation) == pytest.approx(1)


def test_json_keeps_everything() -> None:
    labels = LabelMatrix.of_counts(NOT_EXACT, words=("a", "ö", "", "d"), contexts=("x", "y", "z"))
    one = max_margin(labels).geometry(labels)
    back = WordContext.of_data(json.loads(json.dumps(one.data())))
    np.testing.assert_array_equal(back.word_vectors, one.word_vectors)
    np.testing.assert_array_equal(back.context_vectors, one.context_vectors)
    assert (back.name, back.paired, back.word_names, back.context_names, back.conventions) == (
        one.name, True, ("a", "ö", "", "d"), ("x", "y", "z"), one.conventions,
    )  # fmt: skip


@pytest.mark.parametrize("broken", [{}, {"kind": "x"}, {"kind": "words and contexts", "name": "n", "paired": True}])
def test_other_json_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=r"words and contexts: cannot be read .*what predict --tokens -o writes"):
        WordContext.of_data(broken)


def test_parts_that_do_not_fit_are_refused() -> None:
    w, h = np.ones((3, 2)), np.ones((4, 2))
    with pytest.raises(SettingError, match="bad: has vectors of 2 and 3 features, expected as many"):
        WordContext(name="bad", word_vectors=w, context_vectors=np.ones((4, 3)))
    with pytest.raises(SettingError, match=r"bad: word vectors of shape \(3, 2\), expected finite, two axes"):
        WordContext(name="bad", word_vectors=w * np.nan, context_vectors=h)
    with pytest.raises(SettingError, match="bad: has 1 context names, expected 4, or none"):
        WordContext(name="bad", word_vectors=w, context_vectors=h, context_names=("a",))
    with pytest.raises(SettingError, match="one: has no logits"):
        WordContext(name="one", word_vectors=w, context_vectors=np.ones((4, 3)), paired=False).logits()
    with pytest.raises(SettingError, match="compare: drawn 0 has 6 words and 9 contexts, drawn 1 has 5 words and 9"):
        compare_tokens(drawn(0), drawn(1, words=5))


def test_zero_vectors_have_no_cosine() -> None:
    a = np.random.default_rng(0).standard_normal((6, 3))
    b = a + 0.1 * np.random.default_rng(1).standard_normal((6, 3))
    with_zero = np.vstack([a, np.zeros((1, 3))]), np.vstack([b, np.ones((1, 3))])
    assert cosine_correlation(*with_zero) == pytest.approx(cosine_correlation(a, b))
    assert np.isnan(cosine_correlation(np.eye(3), a[:3]))  # all cosines are 0
    assert np.isnan(cosine_correlation(a[:2], b[:2]))


@settings(deadline=None)
@given(SUPPORTS)
def test_what_collapses_is_what_is_equal(supports: Any) -> None:
    found = collapse(LabelMatrix.of_counts(supports))
    for of, rows in ((found.contexts, supports.T), (found.words, supports)):
        alike = (rows[:, None] == rows[None]).all(-1)
        np.testing.assert_array_equal(of[:, None] == of[None], alike)
    grouped = found.context_groups
    assert all(len(group) > 1 for group in grouped)
    assert sum(map(len, grouped)) == sum(np.bincount(found.contexts)[found.contexts] > 1)


def test_two_topics_are_the_first_direction() -> None:
    supports = of_sets([(0, 1), (1, 2), (0, 2), (0, 1, 2), (3, 4), (4, 5), (3, 5), (3, 4, 5)], 6)
    first = directions(centred_factors(LabelMatrix.of_counts(supports), 3), first=1, shown=9)[0]
    sides = {frozenset(first.words_up), frozenset(first.words_down)}
    assert sides == {frozenset({0, 1, 2}), frozenset({3, 4, 5})}
    assert {frozenset(first.contexts_up), frozenset(first.contexts_down)} == {
        frozenset(range(4)),
        frozenset(range(4, 8)),
    }
    up = 0 in first.words_up
    assert (0 in first.contexts_up) == up  # the same side on both


def test_directions_rank_by_distance_and_leave_out_zeros() -> None:
    u = np.array([[0.1], [-0.5], [0.8], [0.0], [-0.2]])
    one = directions(Factors(words=u, sizes=np.ones(1), contexts=-u), shown=2)[0]
    assert (one.words_up, one.words_down) == ((2, 0), (1, 4))
    assert (one.contexts_up, one.contexts_down) == ((1, 4), (2, 0))


def test_orthants_are_by_sign_and_ranked() -> None:
    vectors = np.array([[1.0, 9, 1], [2, 9, 1], [-1, 9, 1], [-1, 9, -3], [0, 9, 5]])
    found = orthants(vectors, (0, 2))
    assert [(one.signs, one.members) for one in found] == [((1, 1), (1, 0)), ((-1, -1), (3,)), ((-1, 1), (2,))]
    assert found[0].reach == (3.0, 2.0)
    for chosen in ((), (3,), (-1,), tuple(range(21))):
        with pytest.raises(SettingError, match=r"directions: are .*expected 1 to 20 of 0 to 2"):
            orthants(vectors, chosen)


def test_enough_dimensions_give_the_margin_program_again() -> None:
    limit = max_margin(LabelMatrix.of_counts(zipf(8, 12, seed=1)), tolerance=1e-9)
    found = low_dimension(limit, limit.rank)
    assert abs(found.excess) < 1e-5
    assert found.cosine == pytest.approx(1, abs=1e-5)


def test_fewer_dimensions_are_above_the_certified_bound() -> None:
    labels = LabelMatrix.of_counts(zipf(8, 12, seed=1))
    limit = max_margin(labels, tolerance=1e-9)
    excess = []
    for dim in (6, 5):
        found = low_dimension(limit, dim, starts=2)
        geometry = found.geometry(labels)
        logits, inside = geometry.logits(), labels.support.toarray() > 0
        assert np.linalg.matrix_rank(logits, tol=1e-6) == dim
        for column, held in zip(logits.T, inside.T, strict=True):
            assert np.ptp(column[held]) < 1e-5
            assert column[held].min() - column[~held].max() > 1 - 1e-5
        assert np.linalg.norm(logits, "nuc") == pytest.approx(found.value, rel=1e-9)
        excess.append(found.excess)
    assert 1e-3 < excess[0] < excess[1]


def test_too_few_dimensions_are_refused() -> None:
    limit = max_margin(LabelMatrix.of_counts(of_sets([(0,), (1,), (2,), (3,)], 4)))
    with pytest.raises(SettingError, match="dim: is 0, expected 1 or more"):
        low_dimension(limit, 0)
    with pytest.raises(SettingError, match=r"dim: 1: no search of 2 keeps the margins .*expected up to 3"):
        low_dimension(limit, 1, starts=1)


def test_uniqueness_says_no_and_unknown_where_nothing_holds() -> None:
    """Points that solve nothing: no margin pulls, all are slack; and with a margin that is not."""
    program = SupportProgram.of(LabelMatrix.one_hot([1, 1]))
    loose = uniqueness(program, np.array([[10.0, 1], [1, 10]]), np.eye(2))
    assert (loose.unique, loose.seen) == ("no", 0.0)
    assert uniqueness(program, np.array([[10.0, 0], [0, 0]]), np.eye(2)).unique == "unknown"


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        (np.ones((3, 2), np.int64), "of all 2 contexts are full, expected two different ones or more"),
        (np.array([[1, 2], [1, 1], [0, 0]]), "of all 2 contexts are full, or the same 2 words"),
        (np.array([[1, 2], [0, 1]]), "of all 2 contexts are full, or the same 1 words"),
    ],
)
def test_supports_that_make_the_program_trivial_are_refused(counts: np.ndarray, told: str) -> None:
    with pytest.raises(SettingError, match=f"supports: {told}"):
        max_margin(LabelMatrix.of_counts(counts))


def test_what_is_too_large_names_the_way_that_is_not() -> None:
    counts = sparse.diags_array([np.ones(2500), np.ones(2499)], offsets=[0, 1], format="csc")
    with pytest.raises(SettingError, match=r"2,500 different words x 2,500 .*at most 6,000,000 .*--proxy --top 32"):
        max_margin(LabelMatrix.of_counts(counts))


def test_a_tolerance_that_is_none_or_out_of_reach_is_refused() -> None:
    labels = LabelMatrix.of_counts(NOT_EXACT)
    with pytest.raises(SettingError, match="tolerance: 0, expected a number between 0 and 1"):
        max_margin(labels, tolerance=0)
    with pytest.raises(
        SettingError, match=r"margin program: reaches a relative gap of .* in 10 iterations, expected 1e-09"
    ):
        max_margin(labels, tolerance=1e-9, iterations=10)
