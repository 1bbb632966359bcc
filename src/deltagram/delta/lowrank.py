"""Low-rank differences: the product of two LoRA factors, and the factors nearest to a difference.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022): W' = W + scale x B A.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, F64, U64, Bits, as_floats, convert, rounded
from deltagram.delta.masks import Mask

DENSE_SIDE: Final = 1024  # up to this shorter side all singular values are computed
_FIRST_RANK: Final = 16


@dataclass(frozen=True, kw_only=True)
class Factors:
    """A difference as LoRA has it: `scale x B A`, `a` being `rank x in` and `b` `out x rank`.

    `transposed`: the layer stores its weight as `in x out` (embeddings, GPT-2's Conv1D). Further axes of a
    convolution are part of `in`. Products are summed in float64 over the ascending rank, each one exact, so that
    the bits do not depend on the machine.
    """

    a: F32
    b: F32
    scale: float
    transposed: bool = False

    @property
    def rank(self) -> int:
        """Rows of A."""
        return int(self.a.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the difference as the layer stores it."""
        return (self.a.shape[1], self.b.shape[0]) if self.transposed else (self.b.shape[0], self.a.shape[1])

    @property
    def nothing(self) -> bool:
        """Whether the difference is zero because a factor is (an adapter that was never trained)."""
        return not (self.a.any() and self.b.any()) or self.scale == 0

    def _sides(self) -> tuple[F32, F32]:
        """`left` (row x rank) and `right` (rank x column) of the difference as stored."""
        return (self.a.T, self.b.T) if self.transposed else (self.b, self.a)

    def entries(self, start: int, stop: int) -> F64:
        """Entries `start` to `stop - 1` of the flat difference, row-major.

        >>> one = Factors(a=np.float32([[1, 2]]), b=np.float32([[3], [4]]), scale=0.5)
        >>> one.entries(1, 4)
        array([3., 2., 4.])
        """
        left, right = self._sides()
        columns = right.shape[1]
        first, last = start // columns, -(-stop // columns)
        total = np.zeros((last - first, columns))
        term = np.empty_like(total)
        with np.errstate(over="ignore", invalid="ignore"):
            for j in range(self.rank):
                column = left[first:last, j, None].astype(np.float64)
                np.multiply(column, right[j].astype(np.float64), out=term)
                total += term
            total *= self.scale
        return total.reshape(-1)[start - first * columns : stop - first * columns]

    def at(self, positions: U64) -> F64:
        """The flat difference at some positions: the same numbers as `entries` gives there."""
        left, right = self._sides()
        row, column = np.divmod(positions.astype(np.int64), right.shape[1])
        total = np.zeros(positions.size)
        with np.errstate(over="ignore", invalid="ignore"):
            for j in range(self.rank):
                total += left[row, j].astype(np.float64) * right[j, column]
            total *= self.scale
        return total


def narrowed(product: F64) -> F32:
    """A product in float32; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return product.astype(np.float32)


def moved(base: Bits, base_dtype: str, product: F64, dtype: str) -> Bits:
    """`round(float32(base) + float32(product))` entry by entry as patterns of `dtype` (in float64 if either is F64)."""
    wide = "F64" if "F64" in (base_dtype, dtype) else "F32"
    start = as_floats(convert(base, base_dtype, wide), wide)
    with np.errstate(over="ignore", invalid="ignore"):
        return rounded(start + product.astype(start.dtype), dtype)


def dense(mask: Mask, values: F32, divide_by: F64, shape: tuple[int, int]) -> F32:
    """A factor from its kept values: `value / float32(divide_by)` where the mask keeps it, else zero.

    `divide_by` is one number, or one a row.
    """
    found = np.zeros(mask.size, np.float32)
    positions = mask.positions(0, mask.keep)
    divisor = divide_by.astype(np.float32)
    if divisor.ndim:
        divisor = divisor[positions // np.uint64(shape[1])]
    with np.errstate(over="ignore"):
        found[positions] = values / divisor
    return found.reshape(shape)


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """Factors `b` (row x rank) and `a` (rank x column) of a matrix, and the relative Frobenius error of `b a`."""

    a: F32
    b: F32
    error: float


def truncate(matrix: NDArray[np.floating], *, rank: int | None = None, error: float | None = None) -> Truncation:
    """The nearest matrix of a rank (at most that of `matrix`), or of the least rank that is near enough.

    With `error`, the least rank with |matrix - b a| <= error |matrix| in the Frobenius norm (Eckart and Young,
    1936). Up to `DENSE_SIDE` on the shorter side all singular values are computed, above that only as many as are
    needed (Lanczos; scipy's `svds`). The singular values are shared evenly between the two factors. Raises
    ValueError for a matrix that is not finite.

    >>> found = truncate(np.outer([1.0, 2.0], [3.0, 4.0, 5.0]), error=0.01)
    >>> found.b.shape, found.a.shape
    ((2, 1), (1, 3))
    """
    wide = matrix.astype(np.float64)
    whole = float(np.linalg.norm(wide))
    if not np.isfinite(whole):
        raise ValueError("the matrix holds NaN or infinity, or is too large")
    for left, values, right in _decompositions(wide, rank):
        remaining = _remaining(values, whole, complete=values.size == min(wide.shape))
        enough = values.size if rank is not None else int(np.argmax(remaining <= error)) + 1 if (
            error is not None and (remaining <= error).any()
        ) else 0  # fmt: skip
        if enough:
            used = min(enough, rank or enough, values.size)
            root = np.sqrt(values[:used])
            a, b = root[:, None] * right[:used], left[:, :used] * root
            return Truncation(a=a.astype(np.float32), b=b.astype(np.float32), error=float(remaining[used - 1]))
    raise ValueError("neither a rank nor an error was asked for")


def _decompositions(matrix: F64, rank: int | None) -> Iterator[tuple[F64, F64, F64]]:
    """Singular triplets, largest first: all of them, or ever more of them."""
    side = min(matrix.shape)
    if side > DENSE_SIDE:
        from scipy.sparse.linalg import svds  # noqa: PLC0415 - only for large ones

        start = np.full(side, side**-0.5)
        count = _FIRST_RANK if rank is None else rank
        while count < side // 4:
            left, values, right = svds(matrix, k=count, v0=start)
            order = np.argsort(-values)
            yield left[:, order], values[order], right[order]
            count *= 2
    yield np.linalg.svd(matrix, full_matrices=False)


def _remaining(values: F64, whole: float, *, complete: bool) -> F64:
    """Relative Frobenius error after each singular value: from those that follow, or what they leave of the norm."""
    if whole == 0:
        return np.zeros(values.size)
    if complete:
        following = np.concatenate([np.cumsum(values[::-1] ** 2)[::-1][1:], [0.0]])
        return np.asarray(np.sqrt(following) / whole)
    return np.asarray(np.sqrt(np.maximum(0.0, 1 - np.cumsum((values / whole) ** 2))))
