"""What supports say in closed form, against loops over contexts and against the equations it stands for."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.factors import centred_factors, centred_geometry, gradient_factors, proxy_geometry
from deltagram.geometry.nexttoken import (
    Shares,
    beyond_supports,
    centred_dense,
    centred_gradient,
    centred_support,
    context_cosines,
    in_support,
    shares,
    switched_on,
    within_supports,
    word_cosines,
)
from tokenworlds import SUPPORTS, of_sets, zipf

COUNTS = arrays(np.int64, st.tuples(st.integers(2, 6), st.integers(1, 6)), elements=st.integers(0, 5)).filter(
    lambda n: n.sum(0).all()
)


def spanning(labels: LabelMatrix) -> np.ndarray:
    """A basis of F as it is defined: `(e_z - e_z') e_j^T`, flat, a row each."""
    rows = []
    words, contexts = labels.shape
    for j in range(contexts):
        inside = np.flatnonzero(labels.support.toarray()[:, j])
        for z in inside[1:]:
            one = np.zeros((words, contexts))
            one[inside[0], j], one[z, j] = 1, -1
            rows.append(one.ravel())
    return np.array(rows).reshape(len(rows), words * contexts)


@settings(deadline=None)
@given(COUNTS, st.integers(0, 2**32))
def test_parts_of_logits_are_the_projections_on_f(counts: Any, seed: int) -> None:
    labels = LabelMatrix.of_counts(counts)
    logits = np.random.default_rng(seed).standard_normal(labels.shape)
    basis = spanning(labels)
    assert len(basis) == (labels.sizes - 1).sum()
    part = within_supports(labels, logits)
    fitted = basis.T @ np.linalg.lstsq(basis.T, logits.ravel(), rcond=None)[0] if len(basis) else np.zeros(logits.size)
    np.testing.assert_allclose(part.toarray().ravel(), fitted, atol=1e-12)
    np.testing.assert_allclose(beyond_supports(labels, logits), logits - part.toarray(), atol=1e-14)
    np.testing.assert_array_equal(part.indices, labels.probabilities.indices)


@settings(deadline=None)
@given(COUNTS)
def test_log_odds_are_the_only_ones_in_f(counts: Any) -> None:
    labels = LabelMatrix.of_counts(counts)
    found = in_support(labels)
    basis = spanning(labels)
    log = np.log(np.where(counts, counts / counts.sum(0), 1.0))
    np.testing.assert_allclose(basis @ found.toarray().ravel(), basis @ log.ravel(), atol=1e-12)
    np.testing.assert_allclose(within_supports(labels, found.toarray()).toarray(), found.toarray(), atol=1e-12)
    assert not found.toarray()[labels.support.toarray() == 0].any()


@settings(deadline=None)
@given(COUNTS, st.integers(0, 2**32), st.integers(1, 4))
def test_blocks_of_contexts_add_up(counts: Any, seed: int, width: int) -> None:
    labels = LabelMatrix.of_counts(counts)
    logits = np.random.default_rng(seed).standard_normal(labels.shape)
    whole = shares(labels, [logits])
    parts = shares(labels, [logits[:, at : at + width] for at in range(0, labels.shape[1], width)])
    for name in Shares.__dataclass_fields__:
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), abs=1e-12)
    centred = logits - logits.mean(0)
    assert whole.within + whole.beyond == pytest.approx(np.square(centred).sum())
    assert shares(labels, [in_support(labels).toarray()]).from_log_odds == pytest.approx(0, abs=1e-20)


def test_blocks_that_are_not_all_contexts_are_refused() -> None:
    labels = LabelMatrix.of_counts([[1, 2], [1, 0]])
    with pytest.raises(SettingError, match="blocks: hold 1 contexts, expected 2"):
        shares(labels, [np.zeros((2, 1))])
    with pytest.raises(SettingError, match=r"blocks: hold \(2, 2\) after 1 contexts"):
        shares(labels, [np.zeros((2, 1)), np.zeros((2, 2))])
    with pytest.raises(SettingError, match=r"logits: have shape \(3, 2\), expected \(2, 2\)"):
        within_supports(labels, np.zeros((3, 2)))


@settings(deadline=None)
@given(COUNTS, st.sampled_from([None, 1e-3, 0.3]))
def test_operators_are_their_matrices(counts: Any, ridge: float | None) -> None:
    labels = LabelMatrix.of_counts(counts)
    words = labels.shape[0]
    centring = np.eye(words) - 1 / words
    s = (counts > 0) * 1.0
    margin = 1.0 if ridge is None else np.maximum(0, np.log(labels.weights / ridge))
    pairs = [
        (centred_support(labels, ridge=ridge), centring @ s * margin),
        (centred_gradient(labels), centring @ (counts / counts.sum(0)) * labels.weights),
    ]
    for operator, dense in pairs:
        np.testing.assert_allclose(operator @ np.eye(labels.shape[1]), dense, atol=1e-13)
        np.testing.assert_allclose(operator.T @ np.eye(words), dense.T, atol=1e-13)
    np.testing.assert_allclose(centred_dense(labels, ridge=ridge), pairs[0][1], atol=1e-13)


@settings(deadline=None)
@given(SUPPORTS)
def test_cosines_are_those_of_the_centred_supports(supports: Any) -> None:
    labels = LabelMatrix.of_counts(supports)
    dense = centred_dense(labels)
    for found, vectors in ((context_cosines(labels), dense.T), (word_cosines(labels), dense)):
        size = np.linalg.norm(vectors, axis=1)
        there = size > 1e-12
        wanted = (vectors @ vectors.T / np.multiply.outer(size + ~there, size + ~there))[there][:, there]
        np.testing.assert_allclose(found[there][:, there], wanted, atol=1e-10)
    some, other = np.array([0]), np.array([1, 0])
    np.testing.assert_array_equal(context_cosines(labels, some, other), context_cosines(labels)[some][:, other])
    np.testing.assert_array_equal(word_cosines(labels, some, other), word_cosines(labels)[some][:, other])


def test_a_context_is_switched_on_by_its_weight() -> None:
    labels = LabelMatrix.of_counts(np.array([[90, 0, 1], [0, 9, 0]]))
    np.testing.assert_allclose(switched_on(labels, 0.05), [np.log(0.9 / 0.05), np.log(0.09 / 0.05), 0])
    for ridge in (0.0, -1.0, np.nan):
        with pytest.raises(SettingError, match="ridge"):
            switched_on(labels, ridge)


def test_largest_triplets_are_those_of_a_dense_decomposition() -> None:
    supports = zipf(40, 90)
    labels = LabelMatrix.of_counts(supports * np.random.default_rng(0).integers(1, 5, supports.shape))
    found = centred_factors(labels, 6)
    u, s, v = np.linalg.svd(centred_dense(labels), full_matrices=False)
    np.testing.assert_allclose(found.sizes, s[:6], rtol=1e-10)
    np.testing.assert_allclose(np.abs((u[:, :6] * found.words).sum(0)), 1, atol=1e-8)
    np.testing.assert_allclose(np.abs((v[:6].T * found.contexts).sum(0)), 1, atol=1e-8)
    np.testing.assert_array_equal(found.words, centred_factors(labels, 6).words)
    assert (found.words[np.abs(found.words).argmax(0), np.arange(6)] > 0).all()
    dense = np.linalg.svd(centred_gradient(labels) @ np.eye(90), compute_uv=False)
    np.testing.assert_allclose(gradient_factors(labels, 4).sizes, dense[:4], rtol=1e-10)
    weighted = centred_factors(labels, 3, ridge=0.005)
    np.testing.assert_allclose(
        weighted.sizes, np.linalg.svd(centred_dense(labels, ridge=0.005), compute_uv=False)[:3], rtol=1e-10
    )
    geometry, _ = proxy_geometry(labels, 39)
    np.testing.assert_allclose(geometry.words.dense(), centred_geometry(labels).words.dense(), atol=1e-8)


def test_directions_that_are_not_there_are_refused() -> None:
    labels = LabelMatrix.of_counts(of_sets([(0, 1), (1, 2), (0,)], 4))
    for top in (0, 3):
        with pytest.raises(SettingError, match=f"top: is {top}, expected 1 to 2"):
            centred_factors(labels, top)
    with pytest.raises(SettingError, match="have no direction"):
        centred_factors(labels, 1, ridge=0.9)
