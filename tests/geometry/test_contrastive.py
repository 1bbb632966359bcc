"""Predictions of the supervised contrastive loss: against samples, a convex solver, closed forms, cases known."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry import Matrix, compare, distance, predict
from deltagram.geometry.contrastive import certified, certified_prototypes
from deltagram.geometry.convex import contrastive_program
from deltagram.geometry.designs import minority_angle, orthogonal, simplex
from deltagram.geometry.gramprogram import Contrast, Point
from deltagram.geometry.gramsolver import solve
from deltagram.geometry.headmatch import head_mismatch
from deltagram.geometry.separation import separation
from naivecontrast import least, terms

GAP = 1e-9  # of what geometry decides


def etf_gram(k: int) -> Matrix:
    return Matrix.of_dense((k * np.eye(k) - 1) / (k - 1))


# Cosines between two majority, across, between two minority classes, and the distance to the simplex; ten classes, half
# of them of 5000 samples, half of 5000 / R. From another solver, to three decimals.
STEP = {
    (0.1, 10): (-0.145, -0.129, -0.002, 0.158),
    (0.1, 100): (-0.154, -0.159, 0.161, 0.370),
    (0.5, 10): (-0.234, -0.064, 0.151, 0.395),
    (0.5, 100): (-0.250, -0.010, 0.285, 0.576),
    (1.0, 10): (-0.243, -0.043, 0.161, 0.424),
    (1.0, 100): (-0.250, -0.006, 0.244, 0.540),
}


@pytest.mark.parametrize(("temperature", "ratio"), STEP)
def test_step_imbalance_moves_rare_classes_together(temperature: float, ratio: int) -> None:
    counts = [5000] * 5 + [5000 // ratio] * 5
    geometry, proof = certified(counts, temperature=temperature, features="free")
    cosines = geometry.mean_cosines()
    found = (*cosines[[0, 0, 8], [1, 9, 9]], distance(geometry.means, etf_gram(10)))
    assert found == pytest.approx(STEP[temperature, ratio], abs=1.1e-3)
    assert proof is not None
    assert abs(proof.gap) < GAP


@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5, 1.0, 20.0])
@pytest.mark.parametrize("k", [2, 3, 10])
def test_equal_counts_give_the_simplex(k: int, temperature: float) -> None:
    geometry = predict.supervised_contrastive([7] * k, temperature=temperature, features="free", dim=k - 1)
    assert distance(geometry.means, etf_gram(k)) < 1e-6 * max(1.0, temperature)  # the loss bends by 1 / temperature


@pytest.mark.parametrize(
    ("counts", "temperature"), [([8, 8, 3, 2], 0.5), ([12, 6, 3, 2], 0.2), ([9, 4, 4, 1], 1.0), ([6, 6, 6], 0.3)]
)
def test_the_program_is_the_minimum_over_samples(counts: list[int], temperature: float) -> None:
    geometry, proof = certified(counts, temperature=temperature, features="free")
    means, value = least(counts, temperature=temperature, dim=8)
    assert proof is not None
    assert value == pytest.approx(proof.value, abs=1e-7 * proof.primal + 1e-9)
    assert distance(Matrix.of_vectors(means), geometry.means) < 1e-4
    h = geometry.mean_vectors(8)
    labels = np.repeat(np.arange(len(counts)), counts)
    slow = sum(t for t in terms(h[labels], labels.tolist(), temperature=temperature) if t is not None)
    assert slow == pytest.approx(proof.value, rel=1e-10)


def test_with_prototypes_the_program_is_the_minimum_over_samples() -> None:
    counts, w = [8, 4, 2, 1], simplex(4, dim=8)
    geometry, proof = certified_prototypes(counts, design=w, copies=3.0, temperature=0.3)
    means, value = least(counts, temperature=0.3, dim=8, prototypes=w, copies=3.0)
    assert proof is not None
    assert value == pytest.approx(proof.value, abs=1e-7 * proof.primal + 1e-9)
    assert distance(Matrix.of_vectors(means), geometry.means) < 1e-4


counts_of = st.lists(st.integers(1, 400), min_size=2, max_size=12).filter(lambda c: max(c) > 1)
temperatures = st.floats(0.02, 5.0)


@given(counts_of, temperatures)
@settings(max_examples=40, deadline=None)
def test_every_prediction_is_certified(counts: list[int], temperature: float) -> None:
    geometry, proof = certified(counts, temperature=temperature, features="free")
    assert proof is not None
    assert -1e-10 < proof.gap < GAP
    assert np.allclose(geometry.mean_norms(), 1.0, atol=1e-12)
    assert np.linalg.eigvalsh(geometry.means.dense())[0] > -1e-12 * len(counts)


@given(counts_of, temperatures, st.integers(0, 2**20), st.floats(0.1, 100))
@settings(max_examples=25, deadline=None)
def test_no_vectors_are_below_the_dual_bound(counts: list[int], temperature: float, seed: int, copies: float) -> None:
    rng = np.random.default_rng(seed)
    k, n = len(counts), np.array(counts, np.float64)
    w = rng.standard_normal((k, 3))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    contrast = Contrast.of_prototypes(n, w, np.full(k, copies), temperature=temperature, samples=True)
    proof = solve(contrast).proof
    assert abs(proof.primal - proof.dual) < 1e-9 * proof.primal + 1e-13 * n.sum()
    for _ in range(5):
        h = rng.standard_normal((k, 6))
        h /= np.linalg.norm(h, axis=1, keepdims=True)
        point = Point(contrast=contrast, shared=h, own=np.zeros(k))
        assert point.excess >= proof.dual - 1e-13 * n.sum()
        assert point.bound() <= proof.primal * (1 + 1e-9) + 1e-13 * n.sum()  # a bound wherever it is taken


@given(st.integers(0, 2**20), st.booleans())
@settings(max_examples=20, deadline=None)
def test_derivatives_are_those_of_the_loss(seed: int, fixed: bool) -> None:
    rng = np.random.default_rng(seed)
    n = rng.integers(2, 40, 5).astype(np.float64)
    if fixed:
        contrast = Contrast.of_prototypes(n, simplex(5), rng.uniform(0.5, 9, 5), temperature=0.4, samples=True)
    else:
        contrast = Contrast.of_counts(n[[0, 0, 1, 1, 1, 2]], temperature=0.4)
    g = len(contrast.sizes)
    rows, step = rng.standard_normal((g, 7)), rng.standard_normal((g, 7))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    own, turn = (np.where(contrast.sizes > 1, rng.standard_normal(g), 0.0) for _ in range(2))

    def at(far: float) -> Point:
        return Point(contrast=contrast, shared=rows + far * step, own=own + far * turn)

    e = 1e-5
    slope = sum(float((a * b).sum()) for a, b in zip(at(0).gradient(), (step, turn), strict=True))
    assert slope == pytest.approx((at(e).excess - at(-e).excess) / (2 * e), rel=1e-6, abs=1e-6)
    bent = at(0).curved(step, turn)
    for found, high, low in zip(bent, at(e).gradient(), at(-e).gradient(), strict=True):
        assert found == pytest.approx((high - low) / (2 * e), rel=1e-5, abs=1e-4 * float(np.abs(found).max() + 1))


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_a_convex_solver_agrees(temperature: float) -> None:
    counts = [40, 40, 9, 5, 2, 1]
    geometry, proof = certified(counts, temperature=temperature, features="free")
    oracle = contrastive_program(counts, temperature=temperature)
    assert proof is not None
    assert proof.value <= oracle.value * (1 + 1e-7)  # its cosines are feasible to 1e-8
    assert oracle.value == pytest.approx(proof.value, rel=1e-6)
    assert oracle.gram == pytest.approx(geometry.means.dense(), abs=5e-3)
    held, shown = certified_prototypes(counts, design="etf", copies=4.0, temperature=temperature)
    other = contrastive_program(counts, temperature=temperature, prototypes=simplex(6), copies=4.0)
    assert shown is not None
    assert other.value == pytest.approx(shown.value, rel=1e-6)
    assert other.gram == pytest.approx(held.means.dense(), abs=5e-3)


def test_classes_of_one_count_are_taken_together() -> None:
    many = np.repeat([900, 70, 5, 2], 250)
    geometry, proof = certified(many, temperature=0.1, features="free")
    assert proof is not None
    assert abs(proof.gap) < GAP
    assert geometry.means.left.shape[1] == 4
    alone = Contrast.of_prototypes(
        np.array([20.0, 20.0, 3.0, 3.0]), np.zeros((4, 0)), np.zeros(4), temperature=0.2, samples=True
    )
    apart = solve(alone).point
    together = predict.supervised_contrastive([20, 20, 3, 3], temperature=0.2, features="free")
    assert apart.shared @ apart.shared.T == pytest.approx(together.means.dense(), abs=1e-6)


def test_two_hundred_counts_of_their_own() -> None:
    _, proof = certified(np.arange(1, 201) * 3, temperature=0.1, features="free")
    assert proof is not None
    assert abs(proof.gap) < GAP


# Distance of the means from the simplex by copies: batches of five classes of `most` and five of `fewest` samples.
SIMPLEX = {
    (0.1, 20, 2): (0.060, 0.050, 0.027, 0.004, 0.0004),
    (0.1, 100, 1): (0.234, 0.191, 0.086, 0.018, 0.002),
    (0.5, 20, 2): (0.252, 0.195, 0.056, 0.007, 0.001),
    (0.5, 100, 1): (0.291, 0.278, 0.179, 0.034, 0.004),
}


@pytest.mark.parametrize(("temperature", "most", "fewest"), SIMPLEX)
def test_simplex_prototypes_under_imbalance_need_many_copies(temperature: float, most: int, fewest: int) -> None:
    counts = [most] * 5 + [fewest] * 5
    for copies, far in zip((1, 10, 100, 1e3, 1e4), SIMPLEX[temperature, most, fewest], strict=True):
        geometry, proof = certified_prototypes(counts, design="etf", copies=copies, temperature=temperature)
        assert distance(geometry.means, etf_gram(10)) == pytest.approx(far, abs=6e-4)
        assert proof is not None
        assert abs(proof.gap) < GAP


def test_simplex_prototypes_are_exact_in_the_limit_and_for_equal_counts() -> None:
    turned = np.random.default_rng(0).permutation(6)
    for told in ({"counts": [30, 9, 9, 2, 2, 1], "limit": True}, {"counts": [5] * 6, "copies": 0.3}):
        for design in ("etf", simplex(6, dim=9)[turned]):
            exact = predict.prototypes(**told, design=design)
            assert distance(exact.means, etf_gram(6)) < 1e-12
    near, proof = certified_prototypes([5] * 6, design=simplex(6), copies=[0.3] * 5 + [0.3001])  # not by symmetry
    assert proof is not None
    assert distance(near.means, etf_gram(6)) < 1e-3


@pytest.mark.parametrize("supports", ["axes", "blocks"])
def test_orthogonal_prototypes_after_a_relu_are_exact(supports: Any) -> None:
    design = orthogonal(4, dim=9, supports=supports)
    found = predict.prototypes([50, 9, 2, 1], design=design, copies=[1, 2, 3, 4], features="relu")
    assert compare(found, predict.orthogonal_frame(4)).means < 1e-12
    assert found.conventions["exact"] == "for any counts, copies, temperature and batches"


def test_orthogonal_prototypes_of_free_features_give_the_simplex() -> None:
    told = {"counts": [20, 20, 2, 2], "design": "of", "allow_mismatch": True}
    limit = predict.prototypes(**told, limit=True)
    assert distance(limit.means, etf_gram(4)) < 1e-7
    assert "go to the centred ones" in limit.conventions["mismatch"]
    few, proof = certified_prototypes(**told, copies=2.0)
    assert proof is not None
    assert abs(proof.gap) < GAP
    assert distance(few.means, etf_gram(4)) > 0.01


def test_a_simplex_after_a_relu_is_what_its_coordinates_make_it() -> None:
    centred = (np.eye(5) - 0.2) / np.sqrt(0.8)
    found = predict.prototypes([9, 9, 9, 2, 2], design=centred, features="relu", allow_mismatch=True)
    assert compare(found, predict.orthogonal_frame(5)).means < 1e-6
    other = predict.prototypes([9, 9, 9, 2, 2], design=simplex(5, dim=20), features="relu", allow_mismatch=True)
    assert distance(other.means, etf_gram(5)) > 0.1
    assert other.means.dense().min() >= 0
    assert "at the coordinates of these prototypes" in other.conventions["instead"]


def test_chosen_angles_are_exact_as_copies_grow_and_only_with_their_ratios() -> None:
    counts = [20] * 5 + [2] * 5
    chosen = minority_angle(counts, 80)
    target = Matrix.of_vectors(chosen.vectors)
    far: list[F64 | float] = []
    for mean in (10.0, 1e3, 1e5):
        found = predict.prototypes(counts, design=chosen.vectors, copies=chosen.copies(0.1, mean=mean))
        far.append(distance(found.means, target))
    assert far[0] > far[1] > far[2]
    assert far[2] < 5e-3
    exact = predict.prototypes(counts, design=chosen.vectors, copies=chosen.copies(0.1), limit=True)
    equal = predict.prototypes(counts, design=chosen.vectors, limit=True)
    assert distance(exact.means, target) < 1e-6
    assert distance(equal.means, target) > 0.05


def test_fewer_dimensions_than_the_program_wants_are_said_by_the_gap() -> None:
    found = separation(6, 2)
    _, proof = certified_prototypes([9, 9, 4, 4, 2, 2], design=found.vectors, copies=5.0)
    assert proof is not None
    assert proof.gap > 1e-3
    wide = np.hstack([found.vectors, np.zeros((6, 6))])
    _, proof = certified_prototypes([9, 9, 4, 4, 2, 2], design=wide, copies=5.0)
    assert proof is not None
    assert abs(proof.gap) < GAP


def test_single_samples_are_said_to_be_no_anchors() -> None:
    assert "1 class has one sample" in predict.supervised_contrastive([5, 1]).conventions["single samples"]
    two = predict.supervised_contrastive([5, 5, 1, 1], features="free")
    assert "cosines between them are not determined" in two.conventions["single samples"]


def test_heads_and_prototypes_that_go_together() -> None:
    for activation in ("relu", "softplus", "Square"):
        assert head_mismatch("of", activation) is None
        assert head_mismatch(np.eye(3), activation) is None
        assert "negative cosines" in str(head_mismatch("etf", activation))
        assert activation.lower() in str(head_mismatch(etf_gram(3).dense(), activation))
        assert "positive cosines" in str(head_mismatch(0.9 * np.eye(3) + 0.1, activation))
    for activation in (None, "none", "identity", "linear"):
        assert head_mismatch("etf", activation) is None
        assert head_mismatch(etf_gram(4).dense(), activation) is None
        assert "no positive weights balance" in str(head_mismatch("of", activation))
        assert "the simplex (design etf)" in str(head_mismatch(np.eye(3), activation))


P = predict.prototypes
S = predict.supervised_contrastive
BAD: Mapping[str, tuple[Callable[[], Any], str]] = {
    "zero temperature": (lambda: S([3, 4], temperature=0), "temperature: 0, expected a positive number"),
    "cold": (lambda: S([3, 4], temperature=1e-3, features="free"), "temperature: 0.001, expected 0.004 or more"),
    "fraction": (lambda: S([3, 1.5]), "counts: class 1 has 1.5, expected positive whole numbers"),
    "empty": (lambda: S([3, 0]), "class 1 has 0, .*leave out classes without samples"),
    "one class": (lambda: S([3]), "1 class, expected two or more"),
    "no positives": (lambda: S([1, 1, 1]), "one sample in every class: no sample has a positive; count all views"),
    "features": (lambda: S([3, 4], features="tanh"), "features: 'tanh', expected relu or free"),  # type: ignore[arg-type]
    "few for a frame": (lambda: S([3, 4, 5], dim=2), "dim: 2 dimensions for 3 classes, expected 3 or more"),
    "few": (lambda: S([3, 4, 5], features="free", dim=1), "dim: 1 dimensions for 3 classes, expected 2 or more"),
    "design": (lambda: P([3, 4], design="ring"), "design: 'ring', expected etf, of, or unit vectors"),
    "length": (lambda: P([3, 4], design=np.eye(3)), r"design: has shape \(3, 3\), expected \(2, feature\)"),
    "width": (lambda: P([3, 4], design=np.eye(2), dim=5), r"has shape \(2, 2\), expected \(2, 5\)"),
    "not unit": (lambda: P([3, 4], design=[[1, 0], [0, 2]]), "design: class 1 has norm 2, expected unit vectors"),
    "nan": (lambda: P([3, 4], design=[[1, 0], [0, np.nan]]), "design: class 1 has norm nan"),
    "etf dim": (lambda: P([3, 4, 5], design="etf", dim=1), "3 classes in 1 dimensions, expected 2 dimensions or more"),
    "negative copies": (lambda: P([3, 4], design="etf", copies=-1), "copies: holds -1, expected positive numbers"),
    "no copies": (lambda: P([3, 4], design="etf", copies=[1, 0]), "copies: holds 0, .*loss without prototypes"),
    "many copies": (lambda: P([3, 4], design="etf", copies=np.inf), "copies: holds inf, .*beyond number, limit"),
    "copies length": (lambda: P([3, 4], design="etf", copies=[1, 2, 3]), r"copies: has shape \(3,\), expected one"),
    "frame without relu": (lambda: P([3, 4], design="of"), "design: prototypes that no positive weights balance"),
    "simplex with relu": (
        lambda: P([3, 4], design="etf", features="relu"), "negative cosines.*allow_mismatch predicts what happens",
    ),
    "turned frame": (
        lambda: P([3, 4], design=[[0.6, 0.8], [0.8, -0.6]], features="relu"), "prototypes with negative entries",
    ),
    "inside": (
        lambda: P([3, 4, 2], design=simplex(3), features="relu", allow_mismatch=True),
        "that are not negative go to norm",
    ),
    "activation": (lambda: head_mismatch("etf", "tanh"), "activation: 'tanh', expected relu, softplus"),
    "kind": (lambda: head_mismatch("ring", "relu"), "prototypes: 'ring', expected of, etf, separation, minority, or a"),
    "program": (lambda: contrastive_program([2] * 65, temperature=1), "65 classes, expected at most 64"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_in_words(case: tuple[Callable[[], Any], str]) -> None:
    with pytest.raises(SettingError, match=case[1]):
        case[0]()
