"""Collapse numbers beside slow loops, scipy's pinv, scikit-learn's scatter matrices, and known geometries."""

import json
import math
import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import pinv
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from deltagram.errors import SettingError
from deltagram.geometry import compare, measure, symmetry
from deltagram.geometry.collapse import cdnv, nc1
from deltagram.geometry.conventions import CENTRINGS, WEIGHTINGS, convention
from deltagram.geometry.gram import Geometry
from deltagram.geometry.matrix import Matrix
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.nearest import decisions
from deltagram.geometry.predict import TARGETS, etf, orthogonal_frame
from deltagram.geometry.symmetry import Vectors, apart, frame, grams_apart, group_cosine, self_duality

F64 = NDArray[np.float64]
COUNTS = (60, 30, 12, 5, 2)
WIDTH = 7


def sample(counts: tuple[int, ...] = COUNTS, width: int = WIDTH, *, seed: int = 0) -> tuple[F64, NDArray[np.int64]]:
    """Features and labels of classes of these counts, the small ones noisier."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    means = 3 * rng.standard_normal((len(counts), width))
    return means[y] + (1 + 0.2 * y[:, None]) * rng.standard_normal((len(y), width)), y


def moments(x: F64, y: NDArray[np.int64], *, classes: int | None = None) -> ClassMoments:
    return ClassMoments.of(x, y, scatter="classes", classes=classes)


def slow_scatter(x: F64, y: NDArray[np.int64], *, weighting: str, centring: str) -> tuple[F64, F64]:
    """S_W and S_B, a sample and a class at a time."""
    labels, many = np.unique(y), len(y)
    means = {c: x[y == c].mean(0) for c in labels}
    centres = {"class_mean": sum(means.values()) / len(labels), "sample_mean": x.mean(0), "none": 0 * x[0]}
    within, between = np.zeros((x.shape[1],) * 2), np.zeros((x.shape[1],) * 2)
    for c in labels:
        part = x[y == c]
        inner = 1 / (len(part) * len(labels)) if weighting == "class" else 1 / many
        outer = len(part) / many if weighting == "sample" else 1 / len(labels)
        for row in part:
            within += inner * np.outer(row - means[c], row - means[c])
        off = means[c] - centres[centring]
        between += outer * np.outer(off, off)
    return within, between


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("centring", CENTRINGS)
def test_nc1_is_the_pinv_form_under_every_convention(weighting: str, centring: str) -> None:
    """pinv loses as many digits as S_B has condition: below 1e3 here."""
    x, y = sample()
    within, between = slow_scatter(x, y, weighting=weighting, centring=centring)
    found = measure.collapse(moments(x, y), weighting=weighting, centring=centring)
    assert found.nc1 == pytest.approx(float(np.trace(within @ pinv(between, rtol=1e-10))), rel=1e-10)
    assert found.nc1_ratio == pytest.approx(float(np.trace(within) / np.trace(between)), rel=1e-12)
    assert found.conventions["weighting"].startswith(f"{weighting}: ")
    assert found.conventions["centring"].startswith(f"{centring}: ")


def test_sample_weights_are_the_scatter_of_discriminant_analysis() -> None:
    x, y = sample()
    lda = LinearDiscriminantAnalysis(solver="eigen", store_covariance=True).fit(x, y)
    found, counts = moments(x, y), np.array(COUNTS, float)
    np.testing.assert_allclose(found.pooled(convention("sample").within(counts)), lda.covariance_, atol=1e-13)
    np.testing.assert_allclose(found.means, lda.means_, atol=1e-13)
    total = np.cov(x.T, bias=True)
    expected = float(np.trace(lda.covariance_ @ pinv(total - lda.covariance_, rtol=1e-10)))
    assert measure.collapse(found, weighting="sample").nc1 == pytest.approx(expected, rel=1e-9)


def test_conventions_in_use_differ_27_fold_under_imbalance() -> None:
    """Five classes of 2,000, five of 20 with more noise; and each convention is what a loop over its formula gives."""
    rng = np.random.default_rng(0)
    counts, noise = np.repeat([2000, 20], 5), np.repeat([0.1, 1.0], 5)
    y = np.repeat(np.arange(10), counts)
    x = (2 * rng.standard_normal((10, 32)))[y] + noise[y, None] * rng.standard_normal((len(y), 32))
    state = moments(x, y)
    found = {
        (weighting, centring): measure.collapse(state, weighting=weighting, centring=centring).nc1
        for weighting, centring in (
            ("mixed", "sample_mean"), ("mixed", "class_mean"), ("class", "class_mean"), ("sample", "sample_mean")
        )
    }  # fmt: skip
    assert [round(value, 4) for value in found.values()] == [
        0.0186,
        0.0194,
        0.5069,
        0.4066,
    ]  # as docs/measuring.md has it
    for (weighting, centring), value in found.items():
        within, between = slow_scatter(x, y, weighting=weighting, centring=centring)
        assert value == pytest.approx(float(np.trace(within @ pinv(between, rtol=1e-10))), rel=1e-8)


@pytest.mark.parametrize(("classes", "width"), [(4, 40), (40, 4), (1030, 6)])
def test_nc1_of_few_and_of_many_classes(classes: int, width: int) -> None:
    """Beyond 1,024 classes S_B itself is decomposed: pinv's accuracy there."""
    rng = np.random.default_rng(classes)
    means = rng.standard_normal((classes, width))
    means -= means.mean(0)
    root = rng.standard_normal((width, width))
    within, shares = root @ root.T, np.full(classes, 1 / classes)
    between = means.T @ (shares[:, None] * means)
    assert nc1(within, means, shares) == pytest.approx(float(np.trace(within @ pinv(between, rtol=1e-10))), rel=1e-9)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_near_collapse_is_right_to_a_millionth(offset: float) -> None:
    """Sigma 1e-4, also around 100, beside the same sums in extended precision."""
    rng = np.random.default_rng(5)
    y = np.repeat(np.arange(6), 50)
    x = offset + np.eye(6, 20)[y] + 1e-4 * rng.standard_normal((300, 20))
    wide = x.astype(np.longdouble)
    means = np.array([wide[y == c].mean(0) for c in range(6)])
    traces = np.array([((wide[y == c] - means[c]) ** 2).sum() / 50 for c in range(6)])
    centred = means - means.mean(0)
    ratio = float(traces.mean() / (centred**2).sum(1).mean())
    residual = (wide - means[y]).astype(float)
    exact = float(np.trace(residual.T @ residual / 300 @ pinv((centred.T @ centred / 6).astype(float), rtol=1e-8)))
    pairs = [(traces[i] + traces[j]) / 2 / ((means[i] - means[j]) ** 2).sum() for i, j in combinations(range(6), 2)]
    found = measure.collapse_of(x, y)
    assert found.nc1_ratio == pytest.approx(ratio, rel=1e-6)
    assert found.nc1 == pytest.approx(exact, rel=1e-6)
    assert found.cdnv == pytest.approx(float(np.mean(pairs)), rel=1e-6)
    shares = np.linalg.svd(centred.astype(float), compute_uv=False)[:5]
    shares /= shares.sum()
    assert found.effective_rank == pytest.approx(float(np.exp(-shares @ np.log(shares))), rel=1e-9)


@pytest.mark.parametrize("power", [2, 4])
@pytest.mark.parametrize("classes", [3, 700])
def test_cdnv_is_the_loop_over_pairs(power: int, classes: int) -> None:
    rng = np.random.default_rng(classes)
    means, variances = rng.standard_normal((classes, 5)), rng.random(classes)
    pairs = combinations(range(classes), 2)
    slow = [(variances[i] + variances[j]) / 2 / np.linalg.norm(means[i] - means[j]) ** power for i, j in pairs]
    assert cdnv(variances, means, power=power) == pytest.approx(float(np.mean(slow)), rel=1e-11)


def test_cdnv_of_close_means_subtracts_before_it_squares() -> None:
    means = 100 + np.array([[0.0, 0.0], [1e-6, 0.0], [1.0, 0.0]])
    assert cdnv(np.ones(3), means) == pytest.approx((1 / (means[1, 0] - 100) ** 2 + 2) / 3, rel=1e-6)
    assert cdnv(np.ones(2), np.zeros((2, 2))) == math.inf
    with pytest.raises(SettingError, match="the power 3 of the distance, expected 2 or 4"):
        cdnv(np.ones(2), means[:2], power=3)


def slow_frame(vectors: F64) -> dict[str, float]:
    """NC2 a pair at a time."""
    k, sizes = len(vectors), [float(np.linalg.norm(v)) for v in vectors]
    pairs = list(combinations(range(k), 2))
    cosines = [float(vectors[i] @ vectors[j]) / sizes[i] / sizes[j] for i, j in pairs]
    gram, etf = vectors @ vectors.T, np.eye(k) - 1 / k
    return {
        "norm_mean": float(np.mean(sizes)), "norm_cv": float(np.std(sizes) / np.mean(sizes)),
        "cosine_mean": float(np.mean(cosines)), "cosine_std": float(np.std(cosines)),
        "cosine_min": min(cosines), "cosine_max": max(cosines),
        "equiangularity": math.sqrt(np.mean([(c + 1 / (k - 1)) ** 2 for c in cosines])),
        "etf_distance": float(np.linalg.norm(gram / np.linalg.norm(gram) - etf / np.linalg.norm(etf))),
    }  # fmt: skip


def of(rows: F64, centre: F64 | None = None) -> Vectors:
    middle = np.zeros(rows.shape[1]) if centre is None else centre
    return Vectors(rows=rows, there=np.arange(len(rows)), centre=middle)


@pytest.fixture(params=["dense", "thin"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small frames the way of few classes, and the way of very many, in blocks that do not divide them."""
    if request.param == "thin":
        monkeypatch.setattr(symmetry, "THIN", 1)
        monkeypatch.setattr(symmetry, "PAIRS", 1)
        monkeypatch.setattr(symmetry, "_BLOCK", 7)
    return str(request.param)


@pytest.mark.parametrize("classes", [2, 30])
def test_frames_are_the_loop_over_pairs(path: str, classes: int) -> None:
    rows = np.random.default_rng(classes).standard_normal((classes, 9)) + 1
    found, expected = frame(of(rows), etf(classes).means), slow_frame(rows)
    if path == "thin":
        assert (found.cosine_min, found.cosine_max) == (None, None)
        expected = {name: value for name, value in expected.items() if name not in ("cosine_min", "cosine_max")}
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-7, abs=1e-7), name


def test_blocks_of_pairs_are_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(1).standard_normal((30, 9))
    monkeypatch.setattr(symmetry, "_BLOCK", 7)
    found, expected = frame(of(rows), etf(30).means), slow_frame(rows)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-12, abs=1e-12), name


def test_duality_and_distances_are_the_dense_ones(path: str) -> None:
    rng = np.random.default_rng(7)
    w, m = rng.standard_normal((2, 25, 6))
    shifted = of(m + 5, np.full(6, 5.0))

    def unit(matrix: F64) -> F64:
        return matrix / np.linalg.norm(matrix)

    dense = Matrix.of_dense(rng.standard_normal((25, 25)))
    assert self_duality(of(w), shifted) == pytest.approx(np.linalg.norm(unit(w) - unit(m)), rel=1e-12)
    assert grams_apart(of(w), shifted) == pytest.approx(np.linalg.norm(unit(w @ w.T) - unit(m @ m.T)), rel=1e-9)
    for target in (dense, etf(25).means, orthogonal_frame(25).means):
        expected = np.linalg.norm(unit(w @ m.T) - unit(target.dense()))
        assert apart(of(w), shifted, target) == pytest.approx(expected, rel=1e-9)
    directions = w / np.linalg.norm(w, axis=1)[:, None]
    some = np.array([0, 3, 8, 20])
    pairs = [directions[i] @ directions[j] for i, j in combinations(some, 2)]
    assert group_cosine(of(w), some) == pytest.approx(float(np.mean(pairs)), rel=1e-11)


def test_a_zero_vector_takes_no_part_in_angles(path: str) -> None:
    rows = np.vstack([np.eye(4), np.zeros((1, 4))])
    found = frame(of(rows), etf(5).means)
    assert found.cosine_mean == pytest.approx(0, abs=1e-12)
    assert math.isnan(symmetry.alignment(of(rows), of(rows))[4])


def test_a_simplex_frame_is_one_and_an_orthogonal_frame_is_the_other() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    etf = (np.eye(8) - 1 / 8) @ turn[:8]
    state = ClassMoments.of(np.vstack([etf, etf]) + 3, np.tile(np.arange(8), 2))
    counts = np.full(8, 2.0)
    found = measure.collapse(
        state, classifier=5 * etf, against=[target(counts) for target in TARGETS.values()],
        decided=decisions(etf + 3, state, classifier=etf, bias=-3 * etf.sum(1)),
    )  # fmt: skip
    small = 1e-12
    for part in (found.means, found.classifiers):
        assert max(part.norm_cv, part.equiangularity, part.etf_distance) < small
    assert max(found.self_duality, found.gram_duality, *vars(found.against["etf"]).values()) < small
    assert (found.agreement, found.minority, found.nc1) == (1.0, None, pytest.approx(0, abs=small))
    assert found.effective_rank == pytest.approx(7, rel=small)
    apart_by = math.sqrt(2 - 2 * 7 / math.sqrt(7 * 8))  # <I - J/k, I> / (|I - J/k| |I|) = (k-1)/sqrt((k-1) k)
    assert found.against["orthogonal-frame"].means == pytest.approx(apart_by, rel=1e-12)
    np.testing.assert_allclose(found.classes.alignment, 1, rtol=1e-12)
    plain = measure.collapse(ClassMoments.of(np.eye(8), np.arange(8)), centring="none",
                             against=[orthogonal_frame(8)])  # fmt: skip
    assert plain.against["orthogonal-frame"].means < small


def test_the_geometry_is_comparable_with_any_other() -> None:
    x, y = sample()
    w = np.random.default_rng(2).standard_normal((5, WIDTH))
    state = moments(x, y)
    found = state.geometry(classifier=w, weighting="class")
    target = Geometry(
        name="own", means=Matrix.of_vectors(x[:5]), classifiers=Matrix.of_vectors(w + 1),
        logits=Matrix.of_dense(w @ w.T), counts=np.array(COUNTS, float),
    )  # fmt: skip
    beside = measure.collapse(state, classifier=w, against=[target]).against["own"]
    one = compare(found, target)
    assert vars(beside) == pytest.approx(vars(one), rel=1e-12)
    np.testing.assert_allclose(found.logits.dense(), w @ (state.means - state.means.mean(0)).T, atol=1e-12)
    np.testing.assert_allclose(found.alignment(), measure.collapse(state, classifier=w).classes.alignment, rtol=1e-12)
    assert "class_mean" in found.conventions["centring"]


def test_weights_centre_as_those_of_label_scales_do() -> None:
    x, y = sample()
    scales = np.array([3.0, 2.0, 2.0, 1.0, 1.0])
    state = moments(x, y)
    found = state.geometry(centring=scales)
    assert np.abs(scales @ found.means.left).max() < 1e-12
    assert found.conventions["centring"].startswith("weights: ")
    with pytest.raises(SettingError, match="centring: 2 weights, expected 5, one a class"):
        state.geometry(centring=[1.0, 2.0])
    with pytest.raises(SettingError, match="weights that add up to nothing"):
        state.geometry(centring=np.zeros(5))
    with pytest.raises(SettingError, match="centring: 'middle' is unknown, expected class_mean, sample_mean, none"):
        state.geometry(centring="middle")
    with pytest.raises(SettingError, match="weighting: 'half' is unknown"):
        state.geometry(weighting="half")


def test_empty_classes_are_left_out_of_everything() -> None:
    x, y = sample()
    w = np.random.default_rng(2).standard_normal((8, WIDTH))
    spread = y + (y > 1) + (y > 3)  # classes 2, 5 and 7 of 8 are empty
    there = np.array([0, 1, 3, 4, 6])
    found = measure.collapse(moments(x, spread, classes=8), classifier=w).numbers()
    expected = measure.collapse(moments(x, y), classifier=w[there]).numbers()
    assert found["conventions"].pop("classes") == "5 of 8; empty, left out of everything: 2, 5, 7"
    assert expected["conventions"].pop("classes") == "all 5"
    assert found["classes"].pop("numbers") == there.tolist()
    assert expected["classes"].pop("numbers") == list(range(5))
    assert there[expected["minority"].pop("classes")].tolist() == found["minority"].pop("classes")
    one, other = flat(found), flat(expected)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value == (pytest.approx(other[name], rel=1e-12) if isinstance(value, float) else other[name]), name
    json.dumps(found, allow_nan=False)


def flat(numbers: object, name: str = "") -> dict[str, object]:
    """Plain data as one level."""
    if isinstance(numbers, dict | list):
        parts = numbers.items() if isinstance(numbers, dict) else enumerate(numbers)
        return {inner: value for key, part in parts for inner, value in flat(part, f"{name}.{key}").items()}
    return {name: numbers}


def test_minority_collapse_is_seen_in_classifiers_that_merge() -> None:
    counts = np.array([100, 100, 100, 10, 10, 10])
    y = np.repeat(np.arange(6), counts)
    etf = np.eye(6) - 1 / 6
    state = ClassMoments.of(etf[y], y, class_counts=counts)
    merged = etf.copy()
    merged[3:] = etf[3:].mean(0)
    healthy, sick = (measure.collapse(state, classifier=w).minority for w in (etf, merged))
    assert healthy.classes == sick.classes == (3, 4, 5)
    assert healthy.collapse == pytest.approx(0, abs=1e-12)
    assert sick.collapse == pytest.approx(1 + 1 / 5, rel=1e-12)
    assert sick.means == pytest.approx(0, abs=1e-12)


def test_nearest_means_beside_decisions_with_a_bias_are_the_loop() -> None:
    x, y = sample()
    rng = np.random.default_rng(4)
    w, b = rng.standard_normal((6, WIDTH)), 3 * rng.standard_normal(6)
    state = moments(x + 100, y, classes=6)
    found = decisions(x + 100, state, classifier=w, bias=b)
    nearest = [min(range(5), key=lambda c: np.linalg.norm(row + 100 - state.means[c])) for row in x]
    decided = [max(range(6), key=lambda c: w[c] @ (row + 100) + b[c]) for row in x]
    assert found.nearest.tolist() == nearest
    assert found.decided.tolist() == decided
    assert found.agreement == np.mean(np.array(nearest) == decided)
    unbiased = decisions(x + 100, state, classifier=w).decided
    assert (unbiased != found.decided).any()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"classifier": np.eye(5)}, "classifier: has the shape (5, 5), expected (5, 7): a row a class"),
        ({"classifier": np.ones((7, 5))}, "of the features' dimension; give its transpose"),
        ({"classifier": np.full((5, 7), np.nan)}, "classifier, class 0, feature 0: nan, expected finite numbers"),
        ({"classifier": np.ones((5, 7)), "bias": np.ones(4)}, "bias: has the shape (4,), expected (5,)"),
        ({"bias": np.ones(5)}, "bias: is of a classifier, and none is given; give classifier="),
    ],
)
def test_classifiers_that_do_not_fit_are_refused(given: dict, says: str) -> None:
    x, y = sample()
    with pytest.raises(SettingError) as caught:
        measure.collapse_of(x, y, classes=5, **given)
    assert says in str(caught.value)


def test_a_geometry_of_other_classes_is_refused() -> None:
    x, y = sample()
    with pytest.raises(SettingError, match="against: etf has 4 classes, expected the 5 that occur"):
        measure.collapse(moments(x, y), against=[etf(4)])


def test_equal_means_have_no_nc1() -> None:
    found = measure.collapse_of([[0.0, 1.0], [0.0, -1.0], [0.0, 1.0], [0.0, -1.0]], [0, 0, 1, 1])
    assert math.isnan(found.nc1)
    assert math.isnan(found.effective_rank)
    assert found.numbers()["nc1"] is None


def test_the_printed_form_names_its_conventions() -> None:
    text = str(measure.collapse_of(*sample(), weighting="mixed", centring="none", power=4))
    for part in ("mixed: ", "none: the origin", "distance to the power 4", "not divided by the number of classes"):
        assert part in text


def test_many_classes_take_no_class_by_class_matrix() -> None:
    """9,000 classes: a Gram would take 648 MB; two sets of vectors of 1.2 MB each are not even held twice."""
    rng = np.random.default_rng(0)
    classes = 9000
    w, m = rng.standard_normal((2, classes, 16))
    simplex = etf(classes).means
    tracemalloc.start()
    one, other = of(w), of(m, m.mean(0))
    for vectors in (one, other):
        frame(vectors, simplex)
    self_duality(one, other)
    grams_apart(one, other)
    apart(one, other, simplex)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * w.nbytes
