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
        found = list(scores.kept(blocks, scores.largest(blocks, keep=keep)))
    positions = np.concatenate([p for p, _ in found]).astype(np.int64)
    expected = np.sort(np.argsort(-np.abs(values), kind="stable")[:keep])
    assert np.array_equal(positions, expected)
    assert np.array_equal(np.concatenate([v for _, v in found]), values[positions])
