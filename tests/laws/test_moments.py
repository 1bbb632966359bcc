"""Laws of class moments: any split of a stream, any order of merging, any rotation; and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deltagram.errors import SettingError
from deltagram.geometry import moments as module
from deltagram.geometry import welford_numpy
from deltagram.geometry.conventions import convention
from deltagram.geometry.moments import SCATTERS, ClassMoments
from deltagram.geometry.predict import etf
from deltagram.geometry.symmetry import Vectors, frame

F64 = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


@st.composite
def streams(draw: st.DrawFn) -> tuple[F64, NDArray[np.int64], int]:
    """Samples of up to five classes, some of them empty, around a middle that may be far away."""
    classes, width = draw(st.integers(2, 5)), draw(st.integers(1, 6))
    many, seed = draw(st.integers(0, 40)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    offset = draw(st.sampled_from([0.0, 1.0, 100.0]))
    return offset + rng.standard_normal((many, width)), rng.integers(0, draw(st.integers(1, classes)), many), classes


def by_hand(x: F64, y: NDArray[np.int64], classes: int) -> tuple[F64, F64, F64]:
    """Counts, means and S_c of each class, in two passes."""
    width = x.shape[1]
    means, scatter = np.zeros((classes, width)), np.zeros((classes, width, width))
    for label in set(y.tolist()):
        part = x[y == label]
        means[label] = part.mean(0)
        scatter[label] = sum(np.outer(row - means[label], row - means[label]) for row in part)
    return np.bincount(y, minlength=classes), means, scatter


def assert_equal(found: ClassMoments, expected: ClassMoments, x: F64) -> None:
    """To rounding: each of n steps moves a mean by eps of its size, and a squared distance by its square root twice."""
    size, many = float(np.abs(x).max(initial=1.0)), len(x) + 1
    spread = many * size * EPS
    assert np.array_equal(found.counts, expected.counts)
    np.testing.assert_allclose(found.means, expected.means, rtol=0, atol=spread)
    bound = 8 * many * x.shape[1] * (spread * 10 + EPS * 40)  # distances here are below ten
    np.testing.assert_allclose(found.traces, expected.traces, rtol=0, atol=bound)
    if expected.scatter is not None:
        np.testing.assert_allclose(found.scatter, expected.scatter, rtol=0, atol=bound)


@pytest.mark.parametrize("scatter", SCATTERS)
@given(stream=streams(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_split_of_a_stream_gives_the_same_state(scatter: str, stream: tuple, data: st.DataObject) -> None:
    x, y, classes = stream
    whole = ClassMoments.empty(classes, x.shape[1], scatter=scatter).update(x, y)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=4)))
    parts = list(zip(np.split(x, cuts), np.split(y, cuts), strict=True))
    streamed = merged = ClassMoments.empty(classes, x.shape[1], scatter=scatter)
    for features, labels in parts:
        streamed = streamed.update(features, labels)
        merged = merged.merge(ClassMoments.empty(classes, x.shape[1], scatter=scatter).update(features, labels))
    assert np.array_equal(streamed.means, whole.means)  # one sample after another: not a bit differs
    assert np.array_equal(streamed.traces, whole.traces)
    assert_equal(streamed, whole, x)
    assert_equal(merged, whole, x)


@given(stream=streams())
@settings(max_examples=60, deadline=None)
def test_the_state_is_the_two_pass_one(stream: tuple) -> None:
    x, y, classes = stream
    counts, means, scatter = by_hand(x, y, classes)
    weights = np.where(counts > 0, counts, 1).astype(float)
    found = {kind: ClassMoments.empty(classes, x.shape[1], scatter=kind).update(x, y) for kind in SCATTERS}
    traces = np.einsum("cii->c", scatter)
    zeros = {"counts": counts, "means": means, "traces": traces, "weights": np.ones(classes)}
    assert_equal(found["classes"], ClassMoments(**zeros, scatter=scatter), x)
    assert_equal(found["full"], ClassMoments(**zeros, scatter=scatter.sum(0)), x)
    known = ClassMoments.empty(classes, x.shape[1], class_counts=counts).update(x, y)
    assert_equal(known, ClassMoments(**zeros, scatter=np.einsum("c,cij->ij", 1 / weights, scatter)), x)


@given(stream=streams(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_merging_is_associative_and_takes_no_order(stream: tuple, data: st.DataObject) -> None:
    x, y, classes = stream
    cut = sorted(data.draw(st.tuples(st.integers(0, len(x)), st.integers(0, len(x)))))
    a, b, c = (
        ClassMoments.empty(classes, x.shape[1], scatter="classes").update(features, labels)
        for features, labels in zip(np.split(x, cut), np.split(y, cut), strict=True)
    )
    assert_equal(a.merge(b).merge(c), a.merge(b.merge(c)), x)
    assert_equal(a.merge(b), b.merge(a), x)


@given(stream=streams(), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_rotation_turns_means_and_leaves_norms_angles_and_traces(stream: tuple, seed: int) -> None:
    x, y, classes = stream
    if len(set(y.tolist())) < 2:
        return
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((x.shape[1],) * 2))[0]
    one, other = (ClassMoments.of(part, y, classes=classes) for part in (x, x @ turn))
    size = float(np.abs(x).max()) * x.shape[1]
    bound = 100 * len(x) * size * EPS
    np.testing.assert_allclose(other.means, one.means @ turn, rtol=0, atol=bound)
    np.testing.assert_allclose(other.traces, one.traces, rtol=0, atol=100 * bound)
    before, after = one.geometry(), other.geometry()
    np.testing.assert_allclose(after.means.dense(), before.means.dense(), rtol=0, atol=100 * bound)


def test_the_compiled_update_is_its_plain_twin() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 17)).astype(np.float32), rng.integers(0, 9, 200)
    found = []
    for absorb, absorb_rows in (module._kernels(), (welford_numpy.absorb, welford_numpy.absorb_rows)):
        state = [np.zeros(9, np.int64), np.zeros(9 * 17), np.zeros(9)]
        absorb(x.reshape(-1), y, *state)
        rows = np.empty(x.size)
        again = [np.zeros(9, np.int64), np.zeros(9 * 17), np.zeros(9)]
        absorb_rows(x.reshape(-1), y, *again, rows)
        for one, other in zip(state, again, strict=True):
            np.testing.assert_allclose(one, other, rtol=200 * EPS, atol=200 * EPS)
        found.append([*state, rows])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=200 * 17 * EPS)


def test_near_collapse_keeps_its_digits() -> None:
    """Offset 100, sigma 1e-4: rounding of a sample at 100 is 1.4e-14, that is 1.4e-10 of sigma."""
    rng = np.random.default_rng(3)
    y = np.repeat(np.arange(4), 500)
    x = 100 + np.eye(4, 6)[y] + 1e-4 * rng.standard_normal((2000, 6))
    exact = [np.var([np.longdouble(value) for value in column], dtype=np.longdouble).astype(float) * 500
             for label in range(4) for column in x[y == label].T]  # fmt: skip
    found = ClassMoments.of(x, y, scatter="classes")
    np.testing.assert_allclose(np.einsum("cii->ci", found.scatter).reshape(-1), exact, rtol=1e-8)
    halves = ClassMoments.of(x[::2], y[::2]).merge(ClassMoments.of(x[1::2], y[1::2]))
    np.testing.assert_allclose(halves.traces, np.reshape(exact, (4, 6)).sum(1), rtol=1e-8)


def test_an_empty_class_and_an_empty_batch_change_nothing() -> None:
    state = ClassMoments.of(np.eye(2), [0, 2], classes=4)
    again = state.update(np.zeros((0, 2)), np.zeros(0, np.int64)).merge(ClassMoments.empty(4, 2))
    assert again.counts.tolist() == [1, 0, 1, 0]
    assert np.array_equal(again.means, state.means)
    assert np.isnan(state.variances[[1, 3]]).all()
    measured = state.geometry()
    assert (measured.classes, measured.counts.tolist()) == (2, [1.0, 1.0])
    assert measured.conventions["classes"] == "2 of 4; empty, left out of everything: 1, 3"
    np.testing.assert_allclose(measured.mean_cosines()[0, 1], -1)  # zero vectors in the centre would move this


def test_update_leaves_the_state_and_the_samples_alone() -> None:
    x, y = np.eye(3), np.arange(3)
    before = ClassMoments.empty(3, 3)
    after = before.update(x, y)
    assert before.counts.sum() == 0
    assert not before.means.any()
    assert after.counts.sum() == 3
    assert np.array_equal(x, np.eye(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_of_torch_are_taken_as_they_are(dtype: torch.dtype) -> None:
    x = torch.randn((50, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    y = torch.arange(50) % 3
    found = ClassMoments.of(x.clone().requires_grad_(), y)
    expected = ClassMoments.of(x.double().numpy(), y.numpy())
    np.testing.assert_allclose(found.means, expected.means, rtol=0, atol=50 * EPS * 4)


@pytest.mark.parametrize(
    ("features", "labels", "says"),
    [
        (np.eye(3), [0, 1, 5], "labels, sample 2: label 5, expected 0 to 3; raise the number of classes"),
        (np.eye(3), [0, -1, 1], "labels, sample 1: label -1, expected 0 to 3; leave such samples out"),
        (np.eye(3), [0.0, 1.0, 2.0], "labels: are of type float64, expected integers"),
        (np.eye(3), [[0], [1], [2]], "labels: have the shape (3, 1), expected one axis (sample)"),
        (np.eye(3), [0, 1], "features and labels: are of 3 and 2 samples"),
        (np.eye(3)[0], [0], "features: have the shape (3,), expected two axes (sample, feature)"),
        (np.eye(4), [0, 1, 2, 3], "features: have 4 dimensions, expected 3, as those before"),
        (np.array([[0, 1, 2], [0, np.nan, 1]]), [0, 1], "features, sample 1, feature 1: nan, expected finite numbers"),
        (np.array([[0, 1, np.inf]], np.float32), [0], "features, sample 0, feature 2: inf"),
        (np.array([["a", "b", "c"]]), [0], "features: are of type <U1, expected numbers"),
    ],
)
def test_bad_samples_are_refused_and_change_nothing(features: F64, labels: list, says: str) -> None:
    state = ClassMoments.of(np.eye(3), [0, 1, 2], classes=4)
    before = state.copy()
    with pytest.raises(SettingError) as caught:
        state.update_in_place(features, labels)
    assert str(caught.value).startswith(says)
    assert np.array_equal(state.means, before.means)
    assert np.array_equal(state.counts, before.counts)


def test_large_features_that_are_finite_are_taken() -> None:
    found = ClassMoments.of(np.full((2, 2), 1e30, np.float32), [0, 1])
    assert np.isfinite(found.means).all()


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"classes": 1}, "classes and features: 1 and 3, expected 2 and 1 or more"),
        ({"scatter": "half"}, "scatter: 'half' is unknown, expected trace or full or classes"),
        (
            {"classes": 10**6, "features": 768, "scatter": "classes"},
            "scatter: a matrix a class takes 4,718,592,000,000",
        ),
        ({"class_counts": [1, 2]}, "class_counts: have the shape (2,), expected 4 numbers of 0 or more"),
    ],
)
def test_bad_settings_are_refused(settings_: dict, says: str) -> None:
    given_ = {"classes": 4, "features": 3} | settings_
    with pytest.raises(SettingError) as caught:
        ClassMoments.empty(given_.pop("classes"), given_.pop("features"), **given_)
    assert str(caught.value).startswith(says)


def test_a_scatter_of_other_weights_is_refused_not_guessed() -> None:
    x, y = np.random.default_rng(0).standard_normal((30, 3)), np.r_[np.zeros(20), np.ones(10)].astype(int)
    counts, how = np.array([20.0, 10.0]), convention("class")
    plain, known = ClassMoments.of(x, y), ClassMoments.of(x, y, class_counts=counts)
    exact = ClassMoments.of(x, y, scatter="classes")
    np.testing.assert_allclose(known.pooled(how.within(counts)), exact.pooled(how.within(counts)), atol=1e-14)
    np.testing.assert_allclose(
        plain.pooled(convention("sample").within(counts)), exact.pooled(convention("sample").within(counts)), atol=1e-14
    )
    wrong = ClassMoments.of(x, y, class_counts=[20, 20])
    for state in (plain, wrong):
        with pytest.raises(SettingError, match="was summed with other weights than those asked for"):
            state.pooled(how.within(counts))
    with pytest.raises(SettingError, match="was not kept"):
        ClassMoments.of(x, y, scatter="trace").pooled(how.within(counts))


def test_what_does_not_add_up_is_not_merged() -> None:
    one = ClassMoments.empty(3, 2)
    for other in (ClassMoments.empty(4, 2), ClassMoments.empty(3, 3), ClassMoments.empty(3, 2, scatter="trace")):
        with pytest.raises(SettingError, match="expected the same of both"):
            one.merge(other)
    with pytest.raises(SettingError, match="whose scatter has other weights"):
        one.merge(ClassMoments.empty(3, 2, class_counts=[1, 2, 3]))


def test_one_class_has_no_geometry() -> None:
    with pytest.raises(SettingError, match="labels: 1 of 3 classes occur, expected two or more"):
        ClassMoments.of(np.eye(2), [1, 1], classes=3).geometry()


def test_balanced_simplex_features_give_the_simplex_frame() -> None:
    x = np.eye(5) @ np.linalg.qr(np.random.default_rng(1).standard_normal((7, 7)))[0][:5]
    state = ClassMoments.of(np.vstack([x, x]), np.tile(np.arange(5), 2))
    vectors = Vectors(rows=state.means, there=state.there, centre=state.means.mean(0))
    assert frame(vectors, etf(5).means).etf_distance < 100 * EPS
