"""Laws of the margin program of next tokens: certificates on every solve, exact cases, symmetry, the oracle."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from deltagram.data.labels import LabelMatrix
from deltagram.geometry import predict
from deltagram.geometry.convex import support_program
from deltagram.geometry.matrix import distance
from deltagram.geometry.nexttoken import beyond_supports, centred_dense
from deltagram.geometry.supportdual import proxy_certificate
from deltagram.geometry.supportprogram import SupportProgram
from deltagram.geometry.supportsvm import MarginSolution, max_margin, shrunk
from tokenworlds import FANO, NOT_EXACT, SUPPORTS, all_subsets, of_sets, zipf

TOLERANCE = 1e-8


def solved(supports: Any, *, tolerance: float = TOLERANCE) -> MarginSolution:
    """The solution, with everything that it claims checked from the definitions alone."""
    labels = LabelMatrix.of_counts(supports)
    found = max_margin(labels, tolerance=tolerance, iterations=20_000)
    logits, s = found.logits, labels.support.toarray()
    for column, inside in zip(logits.T, s.T > 0, strict=True):
        assert np.ptp(column[inside]) <= 1e-14 * max(1, np.abs(column).max())
        if not inside.all():
            assert column[inside].min() - column[~inside].max() >= 1 - 1e-12
    size = np.linalg.norm(logits, "nuc")
    assert found.primal == pytest.approx(size, rel=1e-12)
    dual = expanded(found)
    assert np.linalg.norm(dual, 2) <= 1 + 1e-9
    assert np.abs(dual.sum(0)).max() <= 1e-9
    assert dual[s == 0].max(initial=-1.0) <= 1e-15
    assert found.dual == pytest.approx((dual * s).sum(), rel=1e-9)
    assert -1e-12 <= found.gap <= tolerance
    u, sizes, v = found.factors
    np.testing.assert_allclose((u * sizes) @ v.T, logits, atol=1e-5 * size)
    np.testing.assert_allclose(u.T @ u, np.eye(len(sizes)), atol=1e-10)
    np.testing.assert_allclose(v.T @ v, np.eye(len(sizes)), atol=1e-10)
    return found


def expanded(found: MarginSolution) -> np.ndarray:
    """The dual point of all words and contexts, (word, context)."""
    program = found.program
    small = found.point / program.by_word / program.by_context
    there = program.context_of >= 0
    whole = np.zeros((len(program.word_of), len(there)))
    whole[:, there] = small[program.word_of][:, program.context_of[there]]
    return whole


@settings(max_examples=60, deadline=None)
@given(SUPPORTS)
def test_every_solution_shows_itself(supports: Any) -> None:
    found = solved(supports)
    kept = np.abs(beyond_supports(LabelMatrix.of_counts(supports), found.logits) - found.logits).max()
    assert kept < 1e-12 * found.primal
    assert found.proxy.value >= found.primal * (1 - TOLERANCE)
    assert found.proxy.bound <= found.primal * (1 + 1e-12)
    if found.proxy.exact == "yes":
        assert found.iterations == 0
    if found.proxy.exact == "no":
        assert found.proxy.value > found.primal


@settings(max_examples=12, deadline=None)
@given(SUPPORTS)
def test_a_convex_solver_finds_the_same(supports: Any) -> None:
    pytest.importorskip("cvxpy")
    found, oracle = solved(supports), support_program(LabelMatrix.of_counts(supports))
    assert oracle.value == pytest.approx(found.primal, rel=1e-6)
    if found.uniqueness.unique == "yes":
        centred = oracle.logits - oracle.logits.mean(0)
        np.testing.assert_allclose(centred, found.logits, atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(SUPPORTS, st.randoms(use_true_random=False))
def test_names_of_words_and_contexts_do_not_count(supports: Any, random: Any) -> None:
    words, contexts = (random.sample(range(n), n) for n in supports.shape)
    found, moved = solved(supports), solved(supports[words][:, contexts])
    assert moved.primal == pytest.approx(found.primal, rel=2 * TOLERANCE)
    assert moved.uniqueness.unique == found.uniqueness.unique
    if found.uniqueness.unique == "yes":
        np.testing.assert_allclose(moved.logits, found.logits[words][:, contexts], atol=2e-3)


@settings(max_examples=20, deadline=None)
@given(SUPPORTS, st.integers(2, 4))
def test_copies_of_contexts_and_words_are_multiplicities(supports: Any, copies: int) -> None:
    found = solved(supports)
    doubled = solved(np.repeat(supports, copies, axis=1))
    assert doubled.program.contexts.tolist() == (copies * found.program.contexts).tolist()
    assert doubled.primal == pytest.approx(np.sqrt(copies) * found.primal, rel=1e-7)
    np.testing.assert_array_equal(doubled.logits[:, ::copies], doubled.logits[:, 1::copies])


def test_merged_and_unmerged_programs_have_one_value() -> None:
    pytest.importorskip("cvxpy")
    supports = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 1], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]])
    found = solved(supports)
    assert found.program.mask.shape == (3, 4)
    oracle = support_program(LabelMatrix.of_counts(supports))
    assert oracle.value == pytest.approx(found.primal, rel=1e-7)
    np.testing.assert_allclose(oracle.logits - oracle.logits.mean(0), found.logits, atol=1e-3)


@pytest.mark.parametrize("counts", [[3, 2], [5, 5, 5], [40, 4, 1], [1000, 10, 10, 1]])
def test_one_hot_supports_are_seli(counts: list[int]) -> None:
    labels = LabelMatrix.one_hot(counts)
    found = max_margin(labels)
    assert (found.iterations, found.proxy.exact, found.uniqueness.unique) == (0, "yes", "yes")
    assert abs(found.gap) < 1e-10
    np.testing.assert_allclose(found.logits, centred_dense(labels), atol=1e-10)
    seli, geometry = predict.seli(counts), found.geometry(labels)
    first = np.searchsorted(np.repeat(np.arange(len(counts)), counts), np.arange(len(counts)))
    np.testing.assert_allclose(geometry.contexts.block(first, first), seli.means.dense(), atol=1e-10)
    assert seli.classifiers is not None
    np.testing.assert_allclose(geometry.words.dense(), seli.classifiers.dense(), atol=1e-10 * max(counts))
    assert distance(geometry.words, seli.classifiers) < 1e-7


@pytest.mark.parametrize(("words", "size"), [(4, 1), (5, 2), (6, 3), (7, 4)])
def test_all_subsets_of_one_size_are_exact(words: int, size: int) -> None:
    supports = all_subsets(words, size)
    found = solved(supports)
    a = supports.shape[1] * size * (words - size) / (words * (words - 1))  # C(words - 2, size - 1)
    assert found.proxy.exact == "yes"
    assert found.primal == pytest.approx((words - 1) * np.sqrt(a), rel=1e-12)
    geometry = found.geometry(LabelMatrix.of_counts(supports))
    off = ~np.eye(words, dtype=bool)
    np.testing.assert_allclose(geometry.word_cosines()[off], -1 / (words - 1), atol=1e-10)
    shared = supports.T @ supports
    wanted = (shared - size**2 / words) / (size - size**2 / words)
    np.testing.assert_allclose(geometry.context_cosines(), wanted, atol=1e-10)


def test_the_fano_plane_is_exact() -> None:
    found = solved(of_sets(FANO, 7))
    assert (found.proxy.exact, found.proxy.strict, found.uniqueness.unique) == ("yes", True, "yes")
    np.testing.assert_allclose(found.sizes, np.sqrt(2), atol=1e-10)
    assert found.primal == pytest.approx(6 * np.sqrt(2), rel=1e-12)


def test_the_proxy_is_not_exact_for_four_words() -> None:
    found = solved(NOT_EXACT, tolerance=1e-10)
    assert found.primal == pytest.approx(2.63299, abs=5e-6)
    assert found.proxy.value == pytest.approx(2.65831, abs=5e-6)
    assert found.proxy.exact == "no"
    assert found.proxy.largest > 0
    sizes = of_sets([(0, 4), (1, 2), (3, 4)], 5)  # nor do equal sizes save it
    assert solved(sizes).primal == pytest.approx(2.94868, abs=5e-6)
    assert proxy_certificate(LabelMatrix.of_counts(sizes)).value == pytest.approx(2.96594, abs=5e-6)


def test_contexts_that_any_word_follows_are_zero() -> None:
    with_full = np.hstack([NOT_EXACT, np.ones((4, 2), np.int64)])
    found, without = solved(with_full), solved(NOT_EXACT)
    assert found.primal == pytest.approx(without.primal, rel=1e-7)
    assert not found.logits[:, 3:].any()
    geometry = found.geometry(LabelMatrix.of_counts(with_full))
    assert geometry.conventions["full supports"].startswith("2 contexts")
    assert np.isnan(geometry.context_cosines()[3]).all()


@settings(max_examples=40, deadline=None)
@given(SUPPORTS, st.integers(0, 2**32))
def test_projection_is_the_nearest_point(supports: Any, seed: int) -> None:
    """Against the sorted loop over columns that its docstring stands for, and from any start."""
    program = SupportProgram.of(LabelMatrix.of_counts(supports))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(program.mask.shape) * 3
    found, level = program.project(x)
    for column in range(x.shape[1]):
        inside, r, need = program.mask[:, column], program.words, program.by_context[column]
        y = x[:, column] / np.sqrt(r)
        reach = np.sort(y[~inside] + need)[::-1]
        weight = r[~inside][np.argsort(-(y[~inside] + need), kind="stable")]
        total, mass = r[inside] @ y[inside], r[inside].sum()
        a = total / mass
        for value, w in zip(reach, weight, strict=True):
            if value <= a:
                break
            total, mass = total + w * value, mass + w
            a = total / mass
        wanted = np.where(inside, a, np.minimum(y, a - need)) * np.sqrt(r)
        np.testing.assert_allclose(found[:, column], wanted, atol=1e-12)
    again, _ = program.project(x, level + rng.standard_normal(level.shape))
    np.testing.assert_allclose(again, found, atol=1e-12)
    np.testing.assert_allclose(program.project(found)[0], found, atol=1e-12)


def test_shrinking_is_that_of_a_decomposition() -> None:
    rng = np.random.default_rng(0)
    for shape in ((5, 9), (9, 5)):
        x = rng.standard_normal(shape)
        u, s, v = np.linalg.svd(x, full_matrices=False)
        found, rank = shrunk(x, s[2])
        np.testing.assert_allclose(found, (u * np.maximum(s - s[2], 0)) @ v, atol=1e-10)
        assert rank in (2, 3)


def test_a_language_like_corpus_has_slack_and_fewer_dimensions() -> None:
    found = solved(zipf(60, 150), tolerance=1e-6)
    assert found.slack > 0.3
    assert found.rank < np.linalg.matrix_rank(centred_dense(LabelMatrix.of_counts(zipf(60, 150))))
    assert found.uniqueness.unique == "yes"
    assert found.uniqueness.seen is not None
    assert found.uniqueness.seen > 1e-3


def test_counts_are_of_no_matter() -> None:
    rng = np.random.default_rng(1)
    supports = zipf(12, 30)
    one, other = (solved(supports * rng.integers(1, 9, supports.shape)) for _ in range(2))
    np.testing.assert_array_equal(one.logits, other.logits)


def test_sparse_and_dense_labels_are_one() -> None:
    supports = zipf(10, 20)
    np.testing.assert_array_equal(solved(supports).logits, solved(sparse.csr_array(supports)).logits)
