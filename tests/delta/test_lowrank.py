"""Products of factors against a slow sum, and truncations against the matrix they stand for."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltagram.delta import lowrank
from deltagram.delta.lowrank import Factors, dense, moved, truncate
from deltagram.delta.masks import Stratified

SIDES = st.integers(1, 7)


def factors(rows: int, columns: int, rank: int, *, scale: float, transposed: bool) -> Factors:
    rng = np.random.default_rng([rows, columns, rank])
    a = rng.normal(size=(rank, rows if transposed else columns)).astype("f4")
    b = rng.normal(size=(columns if transposed else rows, rank)).astype("f4")
    return Factors(a=a, b=b, scale=scale, transposed=transposed)


def slowly(one: Factors) -> np.ndarray:
    """The sum, term by term, in Python's own floats."""
    rows, columns = one.shape
    found = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            out, into = (column, row) if one.transposed else (row, column)
            total = 0.0
            for j in range(one.rank):
                total += float(one.b[out, j]) * float(one.a[j, into])
            found[row, column] = total * one.scale
    return found


@given(rows=SIDES, columns=SIDES, rank=SIDES, transposed=st.booleans(), data=st.data())
def test_any_range_and_any_positions_are_the_slow_sum_bit_for_bit(
    rows: int, columns: int, rank: int, *, transposed: bool, data: st.DataObject
) -> None:
    one = factors(rows, columns, rank, scale=-0.3, transposed=transposed)
    expected = slowly(one).reshape(-1)
    start = data.draw(st.integers(0, expected.size))
    stop = data.draw(st.integers(start, expected.size))
    positions = np.array(data.draw(st.lists(st.integers(0, expected.size - 1), max_size=9)), np.uint64)
    assert one.shape == (rows, columns)
    assert one.entries(start, stop).tobytes() == expected[start:stop].tobytes()
    assert one.at(positions).tobytes() == expected[positions.astype(int)].tobytes()


def test_a_factor_that_was_never_trained_adds_nothing() -> None:
    zero = np.zeros((3, 2), "f4")
    assert Factors(a=np.ones((2, 4), "f4"), b=zero, scale=1.0).nothing
    assert Factors(a=np.ones((2, 4), "f4"), b=zero + 1, scale=0.0).nothing
    assert not Factors(a=np.ones((2, 4), "f4"), b=zero + 1, scale=1.0).nothing


@pytest.mark.parametrize("by_row", [False, True])
def test_a_dense_factor_holds_kept_values_over_their_divisor(*, by_row: bool) -> None:
    mask = Stratified(size=30, keep=7, key=3)
    values = np.arange(1, 8, dtype="f4")
    divisor = np.linspace(0.3, 2, 5) if by_row else np.array(0.3)
    found = dense(mask, values, divisor, (5, 6)).reshape(-1)
    positions = mask.positions(0, 7).astype(int)
    expected = values / (divisor.astype("f4")[positions // 6] if by_row else np.float32(0.3))
    assert found[positions].tolist() == expected.tolist()
    assert np.count_nonzero(found) == 7


def test_moving_a_narrow_base_rounds_once() -> None:
    base = np.array([1.0, 1.0], ml_dtypes.bfloat16).view("u2")
    step = 2.0**-7  # of bfloat16 above 1
    found = moved(base, "BF16", np.array([0.49 * step, 0.51 * step]), "BF16").view(ml_dtypes.bfloat16)
    assert found.astype("f8").tolist() == [1.0, 1.0 + step]


def low(rows: int, columns: int, values: list[float]) -> np.ndarray:
    """A matrix with these singular values."""
    rng = np.random.default_rng(5)
    left = np.linalg.qr(rng.normal(size=(rows, len(values))))[0]
    right = np.linalg.qr(rng.normal(size=(columns, len(values))))[0]
    return np.asarray((left * values) @ right.T)


SPECTRUM = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize("shape", [(20, 11), (11, 20), (30, 30)])
@pytest.mark.parametrize("side", [lowrank.DENSE_SIDE, 4], ids=["all", "lanczos"])
@pytest.mark.parametrize("rank", [1, 2, 5, 6])
def test_truncation_is_the_nearest_and_says_how_far_it_is(
    shape: tuple[int, int], side: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowrank, "DENSE_SIDE", side)
    matrix = low(*shape, SPECTRUM)
    found = truncate(matrix, rank=rank)
    away = float(np.linalg.norm(matrix - found.b.astype("f8") @ found.a.astype("f8")))
    whole = float(np.linalg.norm(SPECTRUM))
    best = float(np.linalg.norm(SPECTRUM[rank:])) / whole
    # factors are rounded to float32; and what is left is a difference of squares where not all values are known
    tolerance = 2 * np.finfo("f4").eps * rank + np.sqrt(np.finfo("f8").eps * len(SPECTRUM))
    assert found.a.shape == (rank, shape[1])
    assert abs(away / whole - best) <= tolerance
    assert abs(found.error - best) <= tolerance


@pytest.mark.parametrize("side", [lowrank.DENSE_SIDE, 4], ids=["all", "lanczos"])
@pytest.mark.parametrize(("error", "rank"), [(0.6, 1), (0.26, 2), (0.13, 3), (0.05, 5), (0.01, 6)])
def test_an_error_is_met_by_the_least_rank(side: int, error: float, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowrank, "DENSE_SIDE", side)
    monkeypatch.setattr(lowrank, "_FIRST_RANK", 2)
    found = truncate(low(40, 40, SPECTRUM), error=error)
    assert len(found.a) == rank
    assert found.error <= error


def test_a_rank_above_the_sides_is_theirs() -> None:
    found = truncate(low(5, 3, [2.0, 1.0]), rank=9)
    assert len(found.a) == 3


def test_no_difference_has_factors_and_nan_has_none() -> None:
    nothing = truncate(np.zeros((4, 3)), error=0.1)
    assert nothing.error == 0
    assert not (nothing.b @ nothing.a).any()
    with pytest.raises(ValueError, match="NaN"):
        truncate(np.full((4, 3), np.nan), rank=1)
