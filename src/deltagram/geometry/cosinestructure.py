"""How alike the cosines of two sets of vectors are: correlations over pairs, held against relabelling."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.seeds import key

PERMUTATIONS: Final = 199
_ZERO: Final = 1e-12  # of the longest vector
_FLAT: Final = 1e-12  # of the largest entry: what varies less is the rounding of cosines that are all alike


def unit_rows(vectors: F64) -> tuple[F64, NDArray[np.bool_]]:
    """Vectors (row, feature) at length 1, and which there are: NaN where one is zero, to rounding of the longest."""
    size = np.linalg.norm(vectors, axis=1)
    there = size > _ZERO * size.max(initial=0.0)
    unit = np.divide(vectors, size[:, None], out=np.full_like(vectors, np.nan), where=there[:, None])
    return unit, there


def cosine_matrix(vectors: ArrayLike) -> F64:
    """Cosines between vectors (row, feature), all with all; NaN where one is zero.

    >>> cosine_matrix([[3.0, 0.0], [1.0, 1.0]]).round(4)
    array([[1.    , 0.7071],
           [0.7071, 1.    ]])
    """
    unit, _ = unit_rows(np.asarray(vectors, np.float64))
    found: F64 = unit @ unit.T
    return found


def gram_distance(one: F64, other: F64) -> float:
    """`|| A/||A|| - B/||B|| ||` of two matrices of cosines or Grams, where both are defined: 0 to sqrt 2."""
    rows = _defined((one, other))
    a, b = one[np.ix_(rows, rows)], other[np.ix_(rows, rows)]
    sizes = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    return float(np.linalg.norm(a / sizes[0] - b / sizes[1])) if all(sizes) else float("nan")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A correlation over the pairs of `rows` vectors, and how often relabelled vectors correlate as much.

    `p_value` is (1 + such permutations) / (1 + permutations), one-sided: pairs are not independent, relabelling is. NaN
    where all cosines of one side are alike.
    """

    correlation: float
    p_value: float
    rows: int


def agreements(
    measured: F64,
    predicted: Mapping[str, F64],
    *,
    given: Sequence[F64] = (),
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> dict[str, Agreement]:
    """Pearson's correlation of what is off the diagonal of `measured` and of each `predicted` (row, row).

    With `given` the partial one: what a least-squares fit of those matrices leaves of both sides. The null relabels
    `measured`, or what the fit leaves of it (Mantel 1967; Legendre 2000 for the partial one). Rows in which one of the
    matrices is not defined are left out of all. Raises SettingError for matrices that do not fit, or too few rows.
    """
    every = [measured, *predicted.values(), *given]
    if any(one.shape != measured.shape for one in every) or measured.ndim != 2 or len({*measured.shape}) != 1:
        shapes = sorted({one.shape for one in every})
        raise SettingError("cosines", f"have shapes {shapes}", expected="one square shape")
    rows = _defined(every)
    least = 3 + len(given)
    if len(rows) < least:
        raise SettingError("cosines", f"are defined for {len(rows)} vectors", expected=f"{least} or more")
    side = [one[np.ix_(rows, rows)] for one in given]
    observed = _standard(measured[np.ix_(rows, rows)], side)
    targets = [_standard(one[np.ix_(rows, rows)], side) for one in predicted.values()]
    stack = np.stack([one.ravel() for one in targets]) if targets else np.empty((0, len(rows) ** 2))
    found = stack @ observed.ravel()
    beaten = np.ones(len(found))
    for order in _orders(len(rows), permutations, seed):
        beaten += stack @ observed[order][:, order].ravel() >= found
    levels = np.where(np.isnan(found), np.nan, beaten / (1 + permutations))
    return {
        name: Agreement(correlation=float(r), p_value=float(p), rows=len(rows))
        for name, r, p in zip(predicted, found, levels, strict=True)
    }


def _defined(matrices: Sequence[F64]) -> Any:
    """The rows that are numbers in all matrices."""
    return np.flatnonzero(np.all([np.isfinite(np.diag(one)) for one in matrices], axis=0))


def _standard(matrix: F64, given: Sequence[F64]) -> F64:
    """With a zero diagonal, what `given` and a constant leave of the rest, in units of its norm; NaN if nothing."""
    off = ~np.eye(len(matrix), dtype=bool)
    values = matrix[off]
    known = np.stack([np.ones(len(values)), *(one[off] for one in given)], axis=1)
    left = values - known @ np.linalg.lstsq(known, values, rcond=None)[0]
    size = float(np.linalg.norm(left))
    flat = size <= _FLAT * np.sqrt(len(values)) * float(np.abs(values).max())
    out = np.zeros_like(matrix, np.float64)
    out[off] = np.nan if flat else left / size
    return out


def _orders(size: int, count: int, seed: int) -> Iterator[Any]:
    drawn = np.random.Generator(np.random.Philox(key=key(seed, "relabelling")))
    for _ in range(count):
        yield drawn.permutation(size)
