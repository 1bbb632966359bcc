"""Exact top-k by magnitude against a stable sort, whatever the blocks and the ties."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deltagram.arrays import F32
from deltagram.delta import backend, scores

tied = hnp.arrays(np.float32, st.integers(1, 400), elements=st.sampled_from([0.0, -0.0, 1e-30, -1.0, 1.0, 2.5, -2.5]))
free = hnp.arrays(np.float32, st.integers(1, 400), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@pytest.mark.parametrize("kind", ["numba", "numpy"])
@given(st.one_of(tied, free), st.data())
@settings(max_examples=80, deadline=None)
def test_the_largest_are_kept_and_of_equals_the_first(kind: str, values: F32, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, values.size))
    step = data.draw(st.integers(1, values.size))

    def blocks() -> Iterable[F32]:
        return (values[first : first + step] for first in range(0, values.size, step))

    with backend.using(kind):  # type: ignore[arg-type]
        found = list(scores.kept(((b, b) for b in blocks()), scores.largest(blocks, keep=keep)))
    positions = np.concatenate([p for p, _ in found]).astype(np.int64)
    expected = np.sort(np.argsort(-np.abs(values), kind="stable")[:keep])
    assert np.array_equal(positions, expected)
    assert np.array_equal(np.concatenate([v for _, v in found]), values[positions])


@given(st.integers(1, 10**12), st.integers(1, 400), st.data())
@settings(max_examples=100, deadline=None)
def test_rows_keep_the_same_count_up_to_one(keep: int, rows: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, rows))
    parts = [scores.quotas(keep, rows, first=0, last=cut), scores.quotas(keep, rows, first=cut, last=rows)]
    found = np.concatenate(parts)
    assert int(found.sum()) == keep
    assert found.tolist() == [(i + 1) * keep // rows - i * keep // rows for i in range(rows)]
    assert set(found.tolist()) <= {keep // rows, keep // rows + 1}


def test_the_columns_with_the_largest_weighed_norm_are_chosen() -> None:
    """Of equals, the first."""
    squares = np.array([4.0, 9.0, 4.0, 0.0, 9.0])
    assert scores.largest_columns(squares, None, count=2).tolist() == [1, 4]
    assert scores.largest_columns(squares, None, count=3).tolist() == [0, 1, 4]
    norms = np.array([3, 1, 3, 99, 0], np.float32)
    assert scores.largest_columns(squares, norms, count=2).tolist() == [0, 2]
