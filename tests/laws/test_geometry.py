"""Laws of predicted geometry, for any counts and multipliers: dense algebra, programs and closed forms agree."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deltagram.arrays import F64
from deltagram.geometry import Geometry, Matrix, compare, distance, predict, tune
from deltagram.geometry.blocks import Groups, Point
from deltagram.geometry.convex import margin_program, ridge_program
from deltagram.geometry.path import finite_ridge, ridge_path, zero_from
from deltagram.geometry.problem import Problem
from deltagram.geometry.ridge import merges_from, near_zero
from deltagram.geometry.roots import Projected
from deltagram.geometry.step import Step, at_ridge, closed_form, merging_ratio, unbounded_ratio

EPS = np.finfo(np.float64).eps
COUNTS = st.lists(st.integers(1, 5000), min_size=2, max_size=12)
FEW = st.lists(st.integers(1, 60), min_size=2, max_size=5)


@st.composite
def problems(draw: st.DrawFn, counts: st.SearchStrategy[list[int]] = COUNTS, *, offsets: bool = False) -> Problem:
    n = draw(counts)
    scale = arrays(np.float64, len(n), elements=st.floats(-1.0, 1.0))
    more = {"weight": np.exp(draw(scale)), "offset": 2 * draw(scale)} if offsets else {}
    return Problem.of(n, class_scale=np.exp(draw(scale)), label_scale=np.exp(draw(scale)), **more)


def dense(problem: Problem) -> tuple[F64, F64, F64, F64]:
    """Classifiers, means, logits and polar factor by a dense singular value decomposition."""
    a = 1 / problem.class_scale
    a /= np.linalg.norm(a)
    r = np.sqrt(problem.counts)
    product = (np.eye(len(a)) - np.outer(a, a)) * (r / (problem.class_scale * problem.label_scale))
    u, s, v = np.linalg.svd(product)
    s[-1] = 0.0
    return (u * s) @ u.T, (v.T * s) @ v / np.outer(r, r), product / r, u[:, :-1] @ v[:-1]


@given(problems())
def test_the_implicit_grams_are_those_of_a_dense_decomposition(problem: Problem) -> None:
    geometry = predict.cross_entropy(
        problem.counts, class_scale=problem.class_scale, label_scale=problem.label_scale
    )  # fmt: skip
    polar = predict.margin_solution(problem).polar()
    found = (geometry.classifiers, geometry.means, geometry.logits, polar)
    for matrix, expected in zip(found, dense(problem), strict=True):
        assert matrix is not None
        np.testing.assert_allclose(matrix.dense(), expected, atol=1e-11 * np.abs(expected).max())


def test_at_500_classes_they_agree_to_ten_digits() -> None:
    rng = np.random.default_rng(0)
    problem = Problem.of(rng.integers(1, 10_000, 500))
    geometry = predict.seli(problem.counts)
    classifiers, means, logits, _ = dense(problem)
    for matrix, expected in ((geometry.classifiers, classifiers), (geometry.means, means), (geometry.logits, logits)):
        assert matrix is not None
        assert np.abs(matrix.dense() - expected).max() < 1e-10 * np.abs(expected).max()


@given(st.integers(2, 9), st.integers(1, 9), st.integers(2, 300), st.integers(1, 20), st.floats(0.2, 5))
def test_any_counts_give_the_closed_forms_of_two_sizes(m1: int, m2: int, ratio: int, n: int, scale: float) -> None:
    step = Step(majority=m1, minority=m2, ratio=ratio, least=n, scale_ratio=scale)
    geometry = predict.cross_entropy(step.counts, class_scale=np.repeat([scale, 1.0], (m1, m2)))
    expected = closed_form(step)
    for gram, names in (
        (geometry.classifiers, ("classifier_maj", "classifier_min", "classifier_maj_maj", "classifier_cross")),
        (geometry.means, ("mean_maj", "mean_min", "mean_maj_maj", "mean_cross")),
    ):
        assert gram is not None
        entries = gram.dense()
        got = (entries[0, 0], entries[-1, -1], entries[0, 1], entries[0, -1])
        want = [getattr(expected, name) for name in names]
        np.testing.assert_allclose(got, want, atol=1e-10 * np.abs(want).max())
        if m2 > 1:
            kind = names[0].split("_")[0]
            np.testing.assert_allclose(
                entries[-1, -2], getattr(expected, f"{kind}_min_min"), atol=1e-10 * np.abs(want).max()
            )
    assert geometry.logits is not None
    own = geometry.logits.entries()
    np.testing.assert_allclose((own[0], own[-1]), (expected.own_maj, expected.own_min), rtol=1e-10)


@settings(max_examples=15, deadline=None)
@given(problems(FEW))
def test_the_closed_form_solves_the_margin_program(problem: Problem) -> None:
    solved = margin_program(problem)
    geometry = predict.cross_entropy(
        problem.counts, class_scale=problem.class_scale, label_scale=problem.label_scale
    )  # fmt: skip
    proof = predict.certificate(problem.counts, class_scale=problem.class_scale, label_scale=problem.label_scale)
    assert geometry.logits is not None
    expected = geometry.logits.dense()
    np.testing.assert_allclose(solved.logits(problem.counts), expected, atol=1e-5 * np.abs(expected).max())
    assert solved.value == pytest.approx(proof.primal, rel=1e-6)


@given(problems())
def test_the_certificate_is_feasible_and_of_the_same_value(problem: Problem) -> None:
    proof = predict.certificate(problem.counts, class_scale=problem.class_scale, label_scale=problem.label_scale)
    assert proof.holds
    assert abs(proof.gap) < 1e-10


def test_the_certificate_can_fail() -> None:
    """A matrix that is not the solution has a gap: the check is none by construction."""
    rng = np.random.default_rng(1)
    q = np.sqrt(rng.integers(1, 100, 6).astype(float))
    wrong = Projected(a=np.full(6, 6**-0.5), q=q[::-1].copy())
    right = Projected(a=np.full(6, 6**-0.5), q=q)
    assert wrong.polar().inner(right.product()) < (1 - 1e-3) * right.left_root().entries().sum()


@settings(max_examples=10, deadline=None)
@given(FEW)
def test_a_free_bias_solves_its_program(counts: list[int]) -> None:
    solved = margin_program(Problem.of(counts), free_bias=True)
    geometry, bias = predict.free_bias(counts)
    assert geometry.logits is not None
    assert solved.bias is not None
    np.testing.assert_allclose(solved.logits(counts), geometry.logits.dense(), atol=1e-5)
    np.testing.assert_allclose(solved.bias - solved.bias.mean(), bias, atol=1e-5)


@given(problems(), st.integers(0, 2**31))
def test_a_geometry_is_invariant_to_the_order_of_classes(problem: Problem, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(problem.classes)
    one = predict.cross_entropy(problem.counts, class_scale=problem.class_scale, label_scale=problem.label_scale)
    other = predict.cross_entropy(
        problem.counts[order], class_scale=problem.class_scale[order], label_scale=problem.label_scale[order]
    )
    np.testing.assert_allclose(one.classifier_norms()[order], other.classifier_norms(), rtol=1e-9)
    np.testing.assert_allclose(one.mean_norms()[order], other.mean_norms(), rtol=1e-9)


@given(st.integers(2, 30), st.integers(1, 100))
def test_equal_counts_give_the_simplex(classes: int, count: int) -> None:
    geometry = predict.seli([count] * classes)
    found = compare(geometry, predict.etf(classes))
    assert max(found.means, found.classifiers or 0, found.logits or 0) < 1e-12
    np.testing.assert_allclose(geometry.alignment(), 1.0, atol=1e-12)


@given(problems(offsets=True), st.floats(-6, 1.5))
@settings(max_examples=40, deadline=None)
def test_a_finite_ridge_is_solved_to_a_certified_gap(problem: Problem, log_ridge: float) -> None:
    _, proof = finite_ridge(problem, 10**log_ridge)
    assert abs(proof.gap) <= 1e-10


@settings(max_examples=8, deadline=None)
@given(problems(FEW, offsets=True), st.floats(-1.5, 0.5))
def test_the_path_is_at_least_as_good_as_the_convex_solver(problem: Problem, log_ridge: float) -> None:
    geometry, proof = finite_ridge(problem, 10**log_ridge)
    solved = ridge_program(problem, 10**log_ridge)
    assert proof.primal <= solved.value + 1e-6 * max(1.0, abs(solved.value))
    assert geometry.logits is not None
    scale = max(1.0, float(np.abs(geometry.logits.dense()).max()))
    np.testing.assert_allclose(solved.logits(problem.counts), geometry.logits.dense(), atol=2e-2 * scale)


@given(st.integers(1, 6), st.integers(2, 6), st.integers(1, 80), st.integers(1, 20), st.floats(1e-5, 1.2))
@settings(max_examples=40, deadline=None)
def test_the_path_of_two_sizes_is_the_root_of_one_equation(m1: int, m2: int, ratio: int, n: int, at: float) -> None:
    step = Step(majority=m1, minority=m2, ratio=ratio, least=n)
    problem = Problem.of(step.counts)
    ridge = at * zero_from(problem)
    root = at_ridge(step, ridge)
    k = m1 + m2
    v = np.repeat([-np.sqrt(m2 / (m1 * k)), np.sqrt(m1 / (m2 * k))], (m1, m2))
    product = np.outer(v, np.repeat([root.b_maj, root.b_min], (m1, m2)))
    product[:m1, :m1] += root.x_maj * (np.eye(m1) - 1 / m1)
    product[m1:, m1:] += root.x_min * (np.eye(m2) - 1 / m2)
    geometry, _ = finite_ridge(problem, ridge)
    assert geometry.logits is not None
    found = geometry.logits.dense() * np.sqrt(step.counts)
    np.testing.assert_allclose(found, product, atol=1e-5 * max(1.0, float(np.abs(product).max())))


@given(st.integers(2, 12), st.integers(1, 500), st.floats(1e-6, 0.99))
@settings(max_examples=30, deadline=None)
def test_balanced_counts_give_a_simplex_at_every_ridge(classes: int, count: int, at: float) -> None:
    ridge = at * count**0.5
    geometry, _ = finite_ridge(Problem.of([count] * classes), ridge)
    alpha = np.log(classes * count**0.5 / ridge - classes + 1)
    assert geometry.logits is not None
    np.testing.assert_allclose(
        geometry.logits.dense(), alpha * (np.eye(classes) - 1 / classes), atol=1e-9 * max(1, alpha)
    )


@pytest.mark.parametrize("classes", [2, 3, 5, 12])
@pytest.mark.parametrize("at", [0.97, 0.9926735510420283, 0.9989277631146172, 0.9999267362942186])
def test_just_below_the_threshold_the_solver_does_not_stop_at_the_saddle_of_zero(classes: int, at: float) -> None:
    for count in (2, 7, 500):
        ridge = at * count**0.5
        geometry, _ = finite_ridge(Problem.of([count] * classes), ridge)
        alpha = np.log(classes * count**0.5 / ridge - classes + 1)
        assert geometry.logits is not None
        np.testing.assert_allclose(geometry.logits.dense(), alpha * (np.eye(classes) - 1 / classes), atol=1e-9)


@given(COUNTS, st.floats(0.1, 3), st.floats(1e-4, 0.9))
@settings(max_examples=30, deadline=None)
def test_the_simplex_recipe_holds_at_every_ridge_below_kappa(counts: list[int], kappa: float, at: float) -> None:
    problem = tune.simplex_classifiers(counts, kappa=kappa).problem
    k, ridge = len(counts), at * kappa
    geometry, _ = finite_ridge(problem, ridge)
    alpha = np.log(k * kappa / ridge - k + 1) / kappa
    assert geometry.logits is not None
    expected = alpha * (np.eye(k) - 1 / k) / np.sqrt(problem.counts)
    np.testing.assert_allclose(geometry.logits.dense(), expected, atol=1e-8 * max(alpha, 1.0))
    assert compare(geometry, predict.etf(k)).classifiers == pytest.approx(0, abs=1e-6)


@given(COUNTS)
def test_aligned_classifiers_point_along_their_means(counts: list[int]) -> None:
    np.testing.assert_allclose(tune.aligned(counts).geometry.alignment(), 1.0, atol=1e-9)


@pytest.mark.parametrize(("ratio", "power"), [(2, 0.649), (10, 0.587), (100, 0.548)])
def test_equal_norms_need_the_multipliers_that_were_derived(ratio: int, power: float) -> None:
    problem = tune.equal_norms([5 * ratio] * 5 + [5] * 5).problem
    found = np.log(problem.class_scale[0] / problem.class_scale[-1]) / np.log(ratio)
    assert found == pytest.approx(power, abs=6e-4)


@pytest.mark.parametrize("ratio", [2, 10, 64])
def test_equal_angles_need_the_sixth_root(ratio: int) -> None:
    problem = tune.equal_angles([3 * ratio] * 4 + [3] * 4).problem
    assert problem.class_scale[0] / problem.class_scale[-1] == pytest.approx(ratio ** (1 / 6), rel=1e-9)


@given(st.integers(2, 5), st.integers(2, 5), st.integers(2, 40), st.floats(0.5, 2.0), st.floats(0.5, 2.0))
@settings(max_examples=25, deadline=None)
def test_a_group_merges_exactly_from_its_threshold(m1: int, m2: int, ratio: int, scale: float, label: float) -> None:
    sizes = (m1, m2)
    problem = Problem.of(
        np.repeat([4 * ratio, 4], sizes), class_scale=np.repeat([1.0, scale], sizes),
        label_scale=np.repeat([1.0, label], sizes), weight=np.repeat([1.0, 1.3], sizes),
    )  # fmt: skip
    at = merges_from(problem)[-1]
    assert at == pytest.approx(1.3 * scale * label * 2)
    for share, merged in ((1.02, True), (0.98, False)):
        geometry, _ = finite_ridge(problem, share * at)
        assert geometry.logits is not None
        own, beside = geometry.logits.block()[-1, -1], geometry.logits.block()[-1, -2]
        assert (abs(own - beside) < 1e-7) == merged


def test_margins_near_zero_grow_as_the_law_says() -> None:
    problem = Problem.of([50] * 5 + [5] * 5)
    geometry, _ = finite_ridge(problem, 1e-12)
    assert geometry.logits is not None
    z = geometry.logits.dense()
    margins = np.diag(z) - z
    law = near_zero(problem, 1e-12)
    off = ~np.eye(10, dtype=bool)
    assert np.abs(margins - law)[off].max() < 0.05 * margins[off].min()
    assert np.nanmax(np.abs(near_zero(problem, 1e-3) - law)) == pytest.approx(np.log(1e9))


def test_a_path_starts_each_ridge_from_the_one_before() -> None:
    problem = Problem.of([90, 40, 9, 4])
    together = ridge_path(problem, [1e-3, 1.0, 0.1])
    for (geometry, proof), ridge in zip(together, (1e-3, 1.0, 0.1), strict=True):
        alone, _ = finite_ridge(problem, ridge)
        assert abs(proof.gap) < 1e-10
        assert distance(geometry.logits, alone.logits) < 1e-7  # type: ignore[arg-type]


def test_minorities_merge_in_the_limit_of_imbalance_but_their_means_do_not() -> None:
    step = Step(majority=5, minority=5, ratio=1e13)
    found, limit = closed_form(step), unbounded_ratio(majority=5, minority=5)
    assert found.classifier_min_min / found.classifier_min == pytest.approx(limit["classifier_min_min"], abs=1e-5)
    assert found.classifier_maj_maj / found.classifier_maj == pytest.approx(limit["classifier_maj_maj"], abs=1e-5)
    assert found.mean_min_min / found.mean_min == pytest.approx(limit["mean_min_min"], abs=1e-5)
    assert found.mean_maj_maj / found.mean_maj == pytest.approx(limit["mean_maj_maj"], abs=1e-5)
    assert merging_ratio(majority=3, minority=3) == pytest.approx(7)
    even = closed_form(Step(majority=4, minority=4, ratio=7.0))
    assert even.classifier_min_min == pytest.approx(0, abs=1e-15)


def test_the_example_of_the_paper() -> None:
    """R = 10, k = 10: the squared norm ratio 2.67 of Fig. 1 in arXiv 2303.07608, and its cosines."""
    found = closed_form(Step(majority=5, minority=5, ratio=10.0))
    assert found.classifier_maj / found.classifier_min == pytest.approx(2.672, abs=5e-4)
    assert found.mean_maj / found.mean_min == pytest.approx(0.351, abs=5e-4)


@pytest.mark.parametrize("ridge", [0.01, 0.3])
def test_gradient_and_curvature_are_those_of_the_value(ridge: float) -> None:
    rng = np.random.default_rng(3)
    groups = Groups.of(Problem.of([9, 9, 9, 4, 4, 1], offset=[0.1, 0.1, 0.1, 0, 0, -0.4]))
    core, own = rng.normal(size=(3, 3)), rng.random(3)
    step, move = ridge * rng.normal(size=(3, 3)), ridge * rng.normal(size=3)
    at = Point(groups=groups, core=core, own=own)
    up, down = (Point(groups=groups, core=core + s * 1e-5 * step, own=own + s * 1e-5 * move) for s in (1, -1))
    extra = groups.sizes - 1
    slope = (at.gradient[0] * step).sum() + (extra * at.gradient[1] * move).sum()
    assert (up.value - down.value) / 2e-5 == pytest.approx(slope, rel=1e-6)
    bent, bent_own = at.curved(step, move)
    np.testing.assert_allclose((up.gradient[0] - down.gradient[0]) / 2e-5, bent, atol=1e-7)
    np.testing.assert_allclose(extra * (up.gradient[1] - down.gradient[1]) / 2e-5, bent_own, atol=1e-7)


def test_groups_give_what_single_classes_give() -> None:
    """Tiny differences of counts keep classes apart: the same problem without its symmetry."""
    counts = np.array([40.0, 40.0, 7.0, 7.0, 7.0])
    apart = Problem.of(counts).with_counts(counts * (1 + 1e-9 * np.arange(5)))
    one, _ = finite_ridge(Problem.of(counts), 0.2)
    other, _ = finite_ridge(apart, 0.2)
    assert one.logits is not None
    assert other.logits is not None
    np.testing.assert_allclose(one.logits.dense(), other.logits.dense(), atol=1e-7)


@given(problems(), st.integers(0, 5))
def test_vectors_have_the_grams_and_logits(problem: Problem, extra: int) -> None:
    geometry = predict.cross_entropy(problem.counts, class_scale=problem.class_scale)
    w = geometry.classifier_vectors(problem.classes - 1 + extra)
    m = geometry.mean_vectors(problem.classes - 1 + extra)
    for matrix, got in ((geometry.classifiers, w @ w.T), (geometry.means, m @ m.T), (geometry.logits, w @ m.T)):
        assert matrix is not None
        np.testing.assert_allclose(got, matrix.dense(), atol=1e-7 * np.abs(matrix.dense()).max())


MATRICES: tuple[Callable[[np.random.Generator], Matrix], ...] = (
    lambda rng: Matrix.of_vectors(rng.normal(size=(40, 3))),
    lambda rng: Matrix(diagonal=rng.random(40), left=rng.normal(size=(40, 2)), right=rng.normal(size=(40, 2))),
    lambda rng: Matrix(diagonal=rng.random(40), left=np.zeros((40, 0)), right=np.zeros((40, 0))),
    lambda rng: Matrix.of_dense(rng.normal(size=(40, 40))),
)


@pytest.mark.parametrize("make", MATRICES)
@pytest.mark.parametrize("other", MATRICES)
def test_a_matrix_is_its_dense_form(
    make: Callable[[np.random.Generator], Matrix], other: Callable[[np.random.Generator], Matrix],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("deltagram.geometry.matrix._DENSE", 10)
    rng = np.random.default_rng(0)
    one, two = make(rng), other(rng)
    a, b = one.dense(), two.dense()
    close = {"rtol": 1e-9, "atol": 1e-10}
    np.testing.assert_allclose(one.entries(), np.diag(a), **close)
    np.testing.assert_allclose(one.total(), a.sum(), **close)
    np.testing.assert_allclose(one.inner(two), (a * b).sum(), **close)
    np.testing.assert_allclose(one.norm(), np.linalg.norm(a), **close)
    np.testing.assert_allclose((one - two).dense(), a - b, **close)
    np.testing.assert_allclose((one + two).dense(), a + b, **close)
    np.testing.assert_allclose(one.block(slice(3, 9), np.array([8, 2])), a[3:9][:, [8, 2]], **close)
    rows, cols = np.arange(5), np.arange(7, 40)
    np.testing.assert_allclose(one.within(rows), a[:5, :5].sum() - np.trace(a[:5, :5]), **close)
    np.testing.assert_allclose(one.between(rows, cols), a[:5, 7:].sum(), **close)
    np.testing.assert_allclose(
        distance(one, two), np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b)), atol=1e-7
    )
    np.testing.assert_array_equal(Matrix.of_data(one.data()).dense(), a)


def test_a_geometry_comes_back_from_its_data() -> None:
    geometry = predict.cdt([30, 5, 2], gamma=0.5)
    back = Geometry.of_data(geometry.data())
    np.testing.assert_array_equal(back.mean_norms(), geometry.mean_norms())
    np.testing.assert_array_equal(back.classifier_cosines(), geometry.classifier_cosines())
    assert back.conventions == geometry.conventions
