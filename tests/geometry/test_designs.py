"""Prototype designs: the cosines they promise, the bounds beside them, and which Grams the loss reproduces."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry import Matrix, distance, predict
from deltagram.geometry.additive import Additive
from deltagram.geometry.admissible import admissible, matching_copies
from deltagram.geometry.admissiblenearest import nearest_admissible
from deltagram.geometry.designs import minority, minority_angle, orthogonal, placed, simplex
from deltagram.geometry.headmatch import head_mismatch
from deltagram.geometry.separation import bounds, largest, separation


def off(vectors: F64) -> F64:
    return (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]


@given(st.integers(2, 12), st.integers(0, 6), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_simplex_in_any_dimension(k: int, more: int, seed: int) -> None:
    found = simplex(k, dim=k - 1 + more, seed=seed)
    assert found.shape == (k, k - 1 + more)
    assert off(found) == pytest.approx(np.full(k * (k - 1), -1 / (k - 1)), abs=1e-12)
    assert np.array_equal(found, simplex(k, dim=k - 1 + more, seed=seed))


@given(st.integers(2, 9), st.integers(0, 20), st.sampled_from(["axes", "blocks"]))
def test_the_frame_is_orthonormal_and_not_negative(k: int, more: int, supports: Any) -> None:
    found = orthogonal(k, dim=k + more, supports=supports)
    assert found @ found.T == pytest.approx(np.eye(k), abs=1e-12)
    assert found.min() >= 0
    if supports == "blocks":
        used = (found > 0).sum(1)
        assert used.sum() == k + more  # no unit is left over, so that
        assert used.max() - used.min() <= 1
        dead = found * (np.arange(k + more) != 0)
        reached = (dead * found).sum(1) / np.linalg.norm(dead, axis=1) if used.min() > 1 else np.ones(k)
        assert reached[0] == pytest.approx(np.sqrt(1 - 1 / used[0]) if used.min() > 1 else 1)


# Largest cosines of the best known codes: Petersen's, 20 points of Tammes' problem, the 24-cell, Schläfli's 27.
CODES = {(10, 4): 1 / 6, (12, 3): 1 / np.sqrt(5), (20, 3): 0.6765, (16, 5): 0.2, (27, 6): 0.25}


@pytest.mark.parametrize(("k", "dim"), CODES)
def test_separation_finds_known_codes(k: int, dim: int) -> None:
    found = separation(k, dim)
    assert found.max_cosine == pytest.approx(CODES[k, dim], abs=2e-4)
    assert found.bound <= found.max_cosine + 1e-12
    assert not found.exact
    assert np.array_equal(found.vectors, separation(k, dim).vectors)


@given(st.integers(2, 14), st.integers(2, 14), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_separation_in_every_dimension(k: int, dim: int, seed: int) -> None:
    found = separation(k, dim, seed=seed, starts=1)
    assert found.vectors.shape == (k, dim)
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(np.ones(k), abs=1e-12)
    assert largest(found.vectors) == pytest.approx(found.max_cosine, abs=1e-12)
    assert all(found.max_cosine >= bound - 1e-9 for bound in found.bounds.values())
    assert head_mismatch(found.vectors @ found.vectors.T, "none") is None  # they balance
    if found.exact:
        assert found.max_cosine == pytest.approx(found.bound, abs=1e-12)


@given(st.integers(3, 40), st.integers(2, 6), st.integers(0, 2**20))
@settings(max_examples=60, deadline=None)
def test_no_vectors_are_below_the_bounds(k: int, dim: int, seed: int) -> None:
    drawn = np.random.default_rng(seed).standard_normal((k, dim))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    assert largest(drawn) >= max(bounds(k, dim).values()) - 1e-12


weights_of = (
    st.lists(st.floats(0.05, 1.0), min_size=3, max_size=9)
    .map(lambda given: np.array(given) / sum(given))
    .filter(lambda a: a.max() < 0.499)
)


@given(weights_of)
@settings(max_examples=60, deadline=None)
def test_each_weighting_has_its_gram(weights: F64) -> None:
    gram = Additive(weights=weights).gram()
    k = len(weights)
    sizes = np.linalg.eigvalsh(gram)
    assert sizes[0] > -1e-9
    assert sizes[1] > 1e-6
    assert gram @ weights == pytest.approx(np.zeros(k), abs=1e-9)
    verdict = admissible(gram, dim=k - 1)
    assert verdict.holds
    assert verdict.weights == pytest.approx(weights, abs=1e-6)
    assert nearest_admissible(gram).distance < 1e-6


def limit_distance(w: F64, copies: F64, *, temperature: float) -> float:
    """Distance from the Gram of w after projected gradient steps on cross-entropy with the classifier w, copies apart.

    A class's cross-entropy `log(1 + e^x)` is least where x, a log-sum-exp over the other classes, is: steps are on x.
    """
    k = len(w)
    h = np.random.default_rng(0).standard_normal(w.shape)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    others = np.where(np.eye(k, dtype=bool), -np.inf, np.log(copies))
    for _ in range(20_000):
        score = h @ w.T / temperature + others
        share = np.exp(score - score.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        h = h - 0.3 * temperature * (share @ w - w)
        h /= np.linalg.norm(h, axis=1, keepdims=True)
    return distance(Matrix.of_vectors(h), Matrix.of_vectors(w))


COUNTS = [100] * 5 + [10] * 5
PROFILES: Mapping[str, Callable[[], F64]] = {
    "rare apart": lambda: minority_angle(COUNTS, 103).additive.weights,
    "rare together": lambda: minority_angle(COUNTS, 80).additive.weights,
    "long tail": lambda: np.arange(4, 14) / np.arange(4, 14).sum(),
    "one apart": lambda: np.array([0.3] + [0.7 / 9] * 9),
}


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("profile", PROFILES)
def test_matched_copies_make_a_design_exact_and_equal_ones_do_not(profile: str, temperature: float) -> None:
    design = placed(Additive(weights=PROFILES[profile]()))
    assert limit_distance(design.vectors, design.copies(temperature), temperature=temperature) < 1e-6
    assert limit_distance(design.vectors, np.ones(10), temperature=temperature) > 0.05


def test_rare_classes_at_an_angle() -> None:
    for degrees in (80.0, 90.0, 100.0):
        found = minority_angle(COUNTS, degrees, dim=20).vectors @ minority_angle(COUNTS, degrees, dim=20).vectors.T
        assert found[8, 9] == pytest.approx(np.cos(np.deg2rad(degrees)), abs=1e-9)
        assert found[0, 9] == pytest.approx((found[0, 1] + found[8, 9]) / 2, abs=1e-9)
    simplex_angle = np.rad2deg(np.arccos(-1 / 9))
    same = minority_angle(COUNTS, simplex_angle)
    assert same.copies(0.1) == pytest.approx(np.ones(10), abs=1e-6)
    assert minority([100, 100, 10, 9]).tolist() == [False, False, True, True]


def test_what_is_no_design_is_said() -> None:
    frame = admissible(np.eye(4))
    assert not frame.holds
    assert "no positive weights balance" in frame.reasons[0]
    skewed = np.full((10, 10), -0.1)
    skewed[:5, :5], skewed[5:, 5:] = 0.2, -0.2
    np.fill_diagonal(skewed, 1.0)
    assert any("from a sum s_c + s_c'" in reason for reason in admissible(skewed).reasons)
    wide = np.full((4, 4), -0.5) + 1.5 * np.eye(4)
    assert any("no vectors have these cosines" in reason for reason in admissible(wide).reasons)
    assert any("prototypes are unit vectors" in reason for reason in admissible(2 * np.eye(3)).reasons)
    few = admissible(predict.etf(4).classifiers.dense() * 4 / 3, dim=2)  # type: ignore[union-attr]
    assert few.reasons == ("the rank is 3: 2 dimensions are too few",)


@pytest.mark.parametrize("shape", [(4, 2), (10, 4), (5, 2), (7, 3), (8, 5), (7, 5)])
def test_below_full_rank_other_cosines_do_at_a_temperature(shape: tuple[int, int]) -> None:
    w = separation(*shape).vectors
    gram = w @ w.T
    assert any("depends on the temperature" in reason for reason in admissible(gram).reasons)
    assert admissible(gram, temperature=0.5).holds
    copies = matching_copies(gram, 0.5)
    assert copies is not None
    assert limit_distance(w, copies, temperature=0.5) < 1e-6


def test_matching_copies_are_those_of_the_design() -> None:
    design = minority_angle(COUNTS, 85)
    found = matching_copies(design.vectors @ design.vectors.T, 0.2)
    assert found == pytest.approx(design.copies(0.2), rel=1e-5)
    assert matching_copies(np.eye(5), 0.2) is None


@given(st.integers(3, 8), st.integers(0, 2**20))
@settings(max_examples=20, deadline=None)
def test_the_nearest_is_no_further_than_others(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((k, k))
    w -= w.mean(0)
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    found = nearest_admissible(w @ w.T)
    assert admissible(found.additive.gram(), tolerance=1e-5).off < 1e-9
    for _ in range(20):
        a = rng.dirichlet(np.full(k, 3.0))
        if a.max() < 0.5:
            assert np.linalg.norm(Additive(weights=a).gram() - w @ w.T) >= found.distance - 1e-6


def test_the_nearest_to_a_frame_is_the_simplex() -> None:
    found = nearest_admissible(np.eye(6))
    assert found.additive.gram() == pytest.approx(1.2 * np.eye(6) - 0.2, abs=1e-6)
    assert nearest_admissible(np.eye(2)).additive.gram().tolist() == [[1, -1], [-1, 1]]


BAD: Mapping[str, tuple[Callable[[], Any], str]] = {
    "one": (lambda: simplex(1), "classes: 1, expected two or more"),
    "simplex": (lambda: simplex(5, dim=3), "simplex: 5 classes in 3 dimensions, expected 4 dimensions or more"),
    "frame": (lambda: orthogonal(5, dim=4), "orthogonal: 5 classes in 4 dimensions, expected 5 dimensions or more"),
    "supports": (lambda: orthogonal(2, supports="rings"), "supports: 'rings', expected axes or blocks"),  # type: ignore[arg-type]
    "line": (lambda: separation(5, 1), "dim: 1 dimensions for 5 classes, expected 2 or more"),
    "starts": (lambda: separation(9, 3, starts=0), "starts: 0, expected one or more"),
    "equal": (lambda: minority_angle([5, 5, 5], 80), "counts: are all equal: no class is rare"),
    "lone": (lambda: minority_angle([50, 50, 5], 80), "one rare class has no angle"),
    "angle": (lambda: minority_angle(COUNTS, 60), "60 degrees, expected above 75.5. and below 104.4. degrees"),
    "nan angle": (lambda: minority_angle(COUNTS, np.nan), "nan degrees"),
    "angle dim": (lambda: minority_angle(COUNTS, 90, dim=8), "10 classes in 8 dimensions, expected 9 dimensions"),
    "asymmetric": (lambda: admissible([[1, 0.5], [0, 1]]), "gram: has 0.5 in row 0, column 1 and 0 in row 1, column 0"),
    "nan": (lambda: admissible([[1, np.nan], [np.nan, 1]]), "gram: has nan in row 0, column 1, expected finite"),
    "shape": (lambda: nearest_admissible(np.ones((2, 3))), r"gram: has shape \(2, 3\), expected \(class, class\)"),
    "words": (lambda: admissible("etf"), "gram: "),
    "weights": (lambda: Additive(weights=np.array([0.6, 0.2, 0.2])), "weights: make no design, expected positive"),
    "two": (lambda: Additive(weights=np.array([0.4, 0.6])), "weights: 0.4 and 0.6, expected one half each"),
    "temperature": (lambda: Additive(weights=np.full(4, 0.25)).copies(0), "temperature: 0, expected a positive number"),
    "mean": (lambda: Additive(weights=np.full(4, 0.25)).copies(1, mean=-1), "mean: -1, expected a positive number"),
    "match": (lambda: matching_copies(np.eye(3), np.nan), "temperature: nan, expected a positive number"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_in_words(case: tuple[Callable[[], Any], str]) -> None:
    with pytest.raises(SettingError, match=case[1]):
        case[0]()
