"""A class-by-class matrix held as a diagonal plus a product of two thin factors; k x k entries only where asked for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deltagram.arrays import F64

_DENSE = 1024  # classes up to which k x k entries are formed to take a norm: no cancellation, 8 MB
Rows = slice | NDArray[np.intp]
ALL = slice(None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """`diag(diagonal) + left @ right.T`: Grams and logits of k classes in O(k rank) memory.

    Shapes: `diagonal` (class), `left` and `right` (class, rank). A Gram of vectors has `left` and `right` equal to
    them and a zero diagonal; a predicted one has a diagonal and a rank of a few dozen, whatever k is.
    """

    diagonal: F64
    left: F64
    right: F64

    @classmethod
    def of_vectors(cls, vectors: ArrayLike) -> Self:
        """The Gram of one vector a class, (class, feature).

        >>> Matrix.of_vectors([[1.0, 0.0], [1.0, 1.0]]).dense()
        array([[1., 1.],
               [1., 2.]])
        """
        found = np.asarray(vectors, np.float64)
        return cls(diagonal=np.zeros(len(found)), left=found, right=found)

    @classmethod
    def of_dense(cls, entries: ArrayLike) -> Self:
        """The matrix with these entries, (class, class)."""
        found = np.asarray(entries, np.float64)
        return cls(diagonal=np.zeros(len(found)), left=found, right=np.eye(len(found)))

    @property
    def classes(self) -> int:
        """k."""
        return len(self.diagonal)

    def data(self) -> dict[str, list[Any]]:
        """As JSON has it; `of_data` reads it."""
        return {"diagonal": self.diagonal.tolist(), "left": self.left.tolist(), "right": self.right.tolist()}

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """What `data` wrote. Raises KeyError or ValueError for anything else."""
        size = len(data["diagonal"])
        left, right = (np.asarray(data[side], np.float64).reshape(size, -1) for side in ("left", "right"))
        return cls(diagonal=np.asarray(data["diagonal"], np.float64).reshape(size), left=left, right=right)

    def block(self, rows: Rows = ALL, cols: Rows = ALL) -> F64:
        """The entries at these rows and columns (slices or indices)."""
        found: F64 = self.left[rows] @ self.right[cols].T
        every = np.arange(self.classes)
        at, to = np.nonzero(every[rows][:, None] == every[cols][None, :])
        found[at, to] += self.diagonal[rows][at]
        return found

    def dense(self) -> F64:
        """All k x k entries."""
        found: F64 = self.left @ self.right.T
        found[np.diag_indices(self.classes)] += self.diagonal
        return found

    def entries(self) -> F64:
        """The k entries on the diagonal: squared norms, if this is a Gram."""
        found: F64 = self.diagonal + np.einsum("cr,cr->c", self.left, self.right)
        return found

    def total(self) -> float:
        """The sum of all k x k entries."""
        return float(self.diagonal.sum() + self.left.sum(0) @ self.right.sum(0))

    def inner(self, other: "Matrix") -> float:
        """The sum of the products of entries, from thin products alone."""
        crossed = np.einsum("rs,rs->", self.left.T @ other.left, self.right.T @ other.right)
        mine = self.diagonal @ (other.entries() - other.diagonal)
        theirs = other.diagonal @ (self.entries() - self.diagonal)
        return float(self.diagonal @ other.diagonal + mine + theirs + crossed)

    def norm(self) -> float:
        """The Frobenius norm. Thin factors are reduced by QR first, so that nothing is squared and then subtracted."""
        if self.classes <= _DENSE:
            return float(np.linalg.norm(self.dense()))
        left, right = np.linalg.qr(self.left)[1], np.linalg.qr(self.right)[1]
        core = float(np.linalg.norm(left @ right.T))
        rest = float(self.diagonal @ (self.diagonal + 2 * (self.entries() - self.diagonal)))
        return math.sqrt(max(0.0, core**2 + rest))

    def within(self, rows: NDArray[np.intp]) -> float:
        """The sum of the entries between these classes, without those on the diagonal."""
        left, right = self.left[rows], self.right[rows]
        return float(left.sum(0) @ right.sum(0) - np.einsum("cr,cr->", left, right))

    def between(self, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> float:
        """The sum of the entries at these rows and columns, which have no class in common."""
        return float(self.left[rows].sum(0) @ self.right[cols].sum(0))

    def scaled(self, rows: ArrayLike = 1.0, cols: ArrayLike = 1.0) -> "Matrix":
        """`diag(rows) @ self @ diag(cols)`; a number stands for as many of it."""
        by, to = (np.broadcast_to(np.asarray(given, np.float64), self.classes) for given in (rows, cols))
        return Matrix(diagonal=by * to * self.diagonal, left=by[:, None] * self.left, right=to[:, None] * self.right)

    def __sub__(self, other: "Matrix") -> "Matrix":
        return Matrix(
            diagonal=self.diagonal - other.diagonal,
            left=np.hstack([self.left, -other.left]),
            right=np.hstack([self.right, other.right]),
        )

    def __add__(self, other: "Matrix") -> "Matrix":
        return self - other.scaled(-1.0)


def distance(one: Matrix, other: Matrix) -> float:
    """`|| A/||A|| - B/||B|| ||` in Frobenius norms: 0 for equal shapes, sqrt 2 for orthogonal ones.

    Section 4 of arXiv 2208.05512 measures Gram matrices so. A zero matrix has no shape: NaN.

    >>> round(distance(Matrix.of_dense(np.eye(3)), Matrix.of_dense(7 * np.eye(3))), 12)
    0.0
    """
    sizes = one.norm(), other.norm()
    if not all(sizes):
        return float("nan")
    return (one.scaled(1 / sizes[0]) - other.scaled(1 / sizes[1])).norm()
