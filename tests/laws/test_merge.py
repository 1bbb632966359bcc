"""Laws of every merge method, and a slow reference straight from the equations, on odd inputs too."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from deltagram.delta import backend, scores
from deltagram.delta.merge import METHODS, Consensus, average, combine, keep_at, keep_largest, l1_factor, trimmed_count

Floats = NDArray[Any]
SETTINGS = [
    (consensus, normalize) for consensus in (None, "sum", "count") for normalize in (False, True)
]  # what the table's rows are made of
numbers = st.floats(-8, 8, width=32).map(lambda value: round(value * 4) / 4)  # sums are exact: order cannot matter


@st.composite
def vectors(draw: st.DrawFn) -> tuple[Floats, list[float]]:
    count, size = draw(st.integers(1, 5)), draw(st.integers(0, 40))
    found = draw(arrays.arrays(np.float32, (count, size), elements=numbers))
    weight = st.sampled_from([0.25, 0.5, 1.0, 2.0, -0.5, 0.0])
    return found, draw(st.lists(weight, min_size=count, max_size=count))


def by_hand(rows: Floats, weights: Sequence[float], consensus: Consensus | None, *, normalize: bool) -> Floats:
    """TIES, equations of sections 3 and 4.2 of arXiv 2306.01708, one entry at a time, in Python's floats."""
    merged = []
    for entry in range(rows.shape[1]):
        terms = [(weight * float(row[entry]), weight) for row, weight in zip(rows, weights, strict=True)]
        if consensus is not None:
            mass = sum(term if consensus == "sum" else (term > 0) - (term < 0) for term, _ in terms)
            sign = 1 if mass >= 0 else -1
            terms = [(term, weight) for term, weight in terms if term * sign > 0]
        total, divisor = sum(term for term, _ in terms), sum(weight for _, weight in terms)
        merged.append(total / (divisor or 1) if normalize else total)
    return np.array(merged, np.float64)


def cancels(weights: Sequence[float], consensus: Consensus | None, *, normalize: bool) -> bool:
    """Whether nothing is left to divide by; the jobs refuse that before."""
    return normalize and consensus is None and sum(weights) == 0


@pytest.mark.parametrize(("consensus", "normalize"), SETTINGS)
@given(given_=vectors())
@settings(max_examples=80, deadline=None)
def test_combining_is_the_written_equation(
    consensus: Consensus | None, normalize: bool, given_: tuple[Floats, list[float]]
) -> None:
    """Sums are exact here; what remains is one division in float32: half a unit in the last place."""
    rows, weights = given_
    if cancels(weights, consensus, normalize=normalize):
        return
    found = combine(rows, weights, consensus=consensus, normalize=normalize)
    expected = by_hand(rows, weights, consensus, normalize=normalize)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=np.finfo(np.float32).eps, atol=0)


@pytest.mark.parametrize(("consensus", "normalize"), SETTINGS)
@given(given_=vectors(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_order_of_models_and_of_entries_does_not_matter(
    consensus: Consensus | None, normalize: bool, given_: tuple[Floats, list[float]], data: st.DataObject
) -> None:
    rows, weights = given_
    if cancels(weights, consensus, normalize=normalize):
        return
    order = data.draw(st.permutations(range(len(weights))))
    entries = data.draw(st.permutations(range(rows.shape[1])))
    found = combine(rows, weights, consensus=consensus, normalize=normalize)
    moved = combine(rows[order], [weights[i] for i in order], consensus=consensus, normalize=normalize)
    assert np.array_equal(found, moved)
    assert np.array_equal(found[entries], combine(rows[:, entries], weights, consensus=consensus, normalize=normalize))


@pytest.mark.parametrize(("consensus", "normalize"), SETTINGS)
@given(row=arrays.arrays(np.float64, st.integers(0, 30), elements=numbers), weight=st.sampled_from([0.25, 1.0, 3.0]))
def test_one_model_is_itself_or_its_multiple(
    consensus: Consensus | None, normalize: bool, row: Floats, weight: float
) -> None:
    found = combine(row[None], [weight], consensus=consensus, normalize=normalize)
    np.testing.assert_allclose(found, row if normalize else weight * row, rtol=2 * np.finfo(np.float64).eps)
    scaled = combine(row[None], [weight], consensus=consensus, normalize=normalize, scale=0.5)
    assert np.array_equal(scaled, 0.5 * found)


@given(given_=vectors())
def test_without_conflict_electing_changes_nothing(given_: tuple[Floats, list[float]]) -> None:
    """All positive: every model agrees wherever it moved, so sums are equal, and so are means where all moved."""
    rows = np.abs(given_[0])
    weights = [abs(weight) + 0.25 for weight in given_[1]]
    plain = combine(rows, weights, consensus=None, normalize=False)
    assert np.array_equal(plain, combine(rows, weights, consensus="sum", normalize=False))
    moved = rows + 1
    plain = combine(moved, weights, consensus=None, normalize=True)
    np.testing.assert_allclose(plain, combine(moved, weights, consensus="count", normalize=True), rtol=1e-6)


@given(given_=vectors())
def test_elected_entries_never_leave_the_range_of_the_models(given_: tuple[Floats, list[float]]) -> None:
    """A disjoint mean with positive weights lies between zero and the extremes; TIES cannot overshoot."""
    rows, weights = given_[0], [abs(weight) + 0.25 for weight in given_[1]]
    found = combine(rows, weights, consensus="sum", normalize=True)
    slack = 4 * np.finfo(np.float32).eps * np.abs(rows).max(initial=0)
    assert np.all(found <= rows.max(axis=0).clip(min=0) + slack)
    assert np.all(found >= rows.min(axis=0).clip(max=0) - slack)


@given(given_=vectors())
def test_the_average_is_the_base_plus_the_mean_task_vector(given_: tuple[Floats, list[float]]) -> None:
    rows, weights = given_
    if sum(weights) == 0:
        return
    base = np.arange(rows.shape[1], dtype=np.float64)
    direct = average(rows + base, weights, normalize=True)
    through = base + combine(rows.astype(np.float64), weights, consensus=None, normalize=True)
    terms = np.abs(np.asarray(weights)[:, None] * (np.abs(rows) + base)).sum(axis=0) / abs(sum(weights))
    assert np.all(np.abs(direct - through) <= 16 * np.finfo(np.float64).eps * (terms + 1))


@pytest.mark.parametrize("kernels", ["numba", "numpy"])
@given(
    vector=arrays.arrays(np.float32, st.integers(1, 60), elements=numbers),
    density=st.floats(1e-6, 1.0),
    cut=st.integers(0, 60),
)
@settings(max_examples=60, deadline=None)
def test_trimming_keeps_the_promised_count_and_the_largest(
    kernels: Any, vector: Floats, density: float, cut: int
) -> None:
    """Ties and zeros included, in any blocks; of equals, the first."""
    keep = trimmed_count(density, vector.size)
    assert 1 <= keep <= vector.size
    with backend.using(kernels):
        threshold = scores.largest(lambda: [vector], keep=keep)
        left, ties, parts = threshold.ties, [], []
        for block in (vector[:cut], vector[cut:]):
            part, used = keep_largest(block, threshold, left)
            left -= used
            parts.append(part)
            ties.append(used)
    order = np.argsort(-np.abs(vector), kind="stable")[:keep]
    expected = np.zeros_like(vector)
    expected[order] = vector[order]
    assert np.array_equal(np.concatenate(parts), expected)
    assert sum(ties) == threshold.ties


def test_float64_vectors_keep_their_values() -> None:
    vector = np.array([1 + 2**-40, -3.0, 0.5])
    threshold = scores.largest(lambda: [vector.astype(np.float32)], keep=2)
    assert keep_largest(vector, threshold, threshold.ties)[0].tolist() == [1 + 2**-40, -3.0, 0.0]
    assert keep_at(vector, np.array([0], np.uint64)).tolist() == [1 + 2**-40, 0.0, 0.0]


@given(vector=arrays.arrays(np.float64, 30, elements=numbers), seed=st.integers(0, 99))
def test_the_l1_factor_gives_the_norm_back(vector: Floats, seed: int) -> None:
    kept = vector * (np.random.default_rng(seed).random(30) < 0.3)
    before, after = float(np.abs(vector).sum()), float(np.abs(kept).sum())
    factor = l1_factor(before, after)
    if after > 0:
        assert np.abs(factor * kept).sum() == pytest.approx(before, rel=1e-12)
    else:
        assert factor == 1.0


@pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning")  # what mergekit imports
def test_the_table_holds_mergekits_defaults() -> None:
    """sum of masses, normalize and rescale of `mergekit.merge_methods.registry`, read at run time."""
    from mergekit.merge_methods import registry  # noqa: PLC0415 - heavy

    for name, way in METHODS.items():
        theirs = registry.get(name)
        if not way.vectors:
            defaults = {spec.name: spec.default for spec in theirs.spec.shared_parameters}
            assert defaults["normalize"] is way.normalize
            continue
        assert (theirs.default_normalize, theirs.default_rescale) == (way.normalize, way.rescale)
        assert (theirs.consensus_method is not None) == way.elect
        trim = "none" if theirs.sparsification_method is None else theirs.sparsification_method.value
        assert trim == way.trim
