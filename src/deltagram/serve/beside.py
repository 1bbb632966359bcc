"""What one variant adds beside one tensor of the base, as a layer applies it to its rows of a batch."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from deltagram.arrays import F32, as_floats
from deltagram.delta.changes import Change
from deltagram.delta.lowrank import Factors
from deltagram.delta.submatrix import Submatrix

AT_ONCE: Final = 256  # samples of a sparse product
DENSE: Final = 0.3  # of the entries: beyond it a product with all of them is the faster one, and takes less memory


@dataclass(frozen=True, kw_only=True, eq=False)
class Sparse:
    """Kept differences of a matrix, `row col`, compressed by row.

    Entries are float32: what the restored tensor's entry is more than the base's.
    """

    matrix: Any

    @property
    def nbytes(self) -> int:
        """Memory held."""
        parts = (self.matrix.crow_indices(), self.matrix.col_indices(), self.matrix.values())
        return sum(int(part.nbytes) for part in parts)

    def add(self, x: Any, y: Any) -> None:
        """In place: add `x @ matrix.T` to y, `sample row`, for x, `sample col`, float32.

        Some samples at a time: the product comes as `row sample`, and turning it over costs more than it does where it
        does not stay in the nearer caches.
        """
        for start in range(0, len(x), AT_ONCE):
            y[start : start + AT_ONCE] += (self.matrix @ x[start : start + AT_ONCE].T).T.to(y.dtype)

    def add_rows(self, torch: Any, ids: Any, y: Any) -> None:
        """In place: add row `ids[s]` of the matrix to `y[s]`, `sample col`."""
        starts, columns, values = self.matrix.crow_indices(), self.matrix.col_indices(), self.matrix.values()
        first, counts = starts[ids].long(), (starts[ids + 1] - starts[ids]).long()
        sample = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), counts)
        before = torch.cumsum(counts, 0) - counts
        entry = torch.arange(len(sample), device=ids.device) - before[sample] + first[sample]
        y.index_put_((sample, columns[entry].long()), values[entry].to(y.dtype), accumulate=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Narrow:
    """Differences in some columns of a matrix only: the columns, and the block they make, `row chosen`, float32."""

    columns: Any
    block: Any

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return int(self.columns.nbytes + self.block.nbytes)

    def add(self, x: Any, y: Any) -> None:
        """In place: add `x[:, columns] @ block.T` to y: a dense product as wide as the chosen columns."""
        y += (x[:, self.columns] @ self.block.T).to(y.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Thin:
    """A difference of low rank, `b a`: `b` is `row rank` (the scale is in it), `a` is `rank col`, float32."""

    a: Any
    b: Any

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return int(self.a.nbytes + self.b.nbytes)

    def add(self, x: Any, y: Any) -> None:
        """In place: add `(x @ a.T) @ b.T` to y: two thin products."""
        y += ((x @ self.a.T) @ self.b.T).to(y.dtype)

    def add_rows(self, torch: Any, ids: Any, y: Any) -> None:  # noqa: ARG002 - as Sparse has it
        """In place: add row `ids[s]` of the difference to `y[s]`, `sample col`."""
        y += (self.b[ids] @ self.a).to(y.dtype)


Product = Sparse | Narrow | Thin


@dataclass(frozen=True, kw_only=True, eq=False)
class Beside:
    """One tensor of one variant.

    `product` is added to what the base's tensor gives; or `whole` stands in its stead: made when first asked for, since
    a variant that is only ever swapped in needs neither. `rows` follow the base's rows, and `outputs` is how many rows
    there are then. With `in_place` a patch covers all but `rows`.
    """

    outputs: int
    product_of: Callable[[], Product] | None = None
    whole_of: Callable[[], Any] | None = None
    rows: Any = None
    in_place: bool = False

    @cached_property
    def product(self) -> Product | None:
        """What is added, if anything is."""
        return None if self.product_of is None else self.product_of()

    @cached_property
    def whole(self) -> Any:
        """All entries as the variant has them, if they stand in the base's stead."""
        return None if self.whole_of is None else self.whole_of()

    @property
    def nbytes(self) -> int:
        """Memory held by what was made so far."""
        made = (self.__dict__.get("product"), self.__dict__.get("whole"), self.rows)
        return sum(int(part.nbytes) for part in made if part is not None)


def _differences(change: Change, dtype: str) -> F32:
    after, before = (as_floats(bits, dtype).astype(np.float32) for bits in (change.after, change.before))
    found: F32 = after - before
    return found


def sparse(torch: Any, change: Change, shape: tuple[int, int], *, dtype: str, transposed: bool, device: str) -> Sparse:
    """The kept differences of a matrix of `shape` as its layer multiplies: `transposed` stores it as `col row`."""
    values = _differences(change, dtype)
    positions = np.arange(values.size) if change.positions is None else change.positions.astype(np.int64)
    major, minor = np.divmod(positions, shape[1])
    if transposed:
        order = np.argsort(minor, kind="stable")
        major, minor, values, shape = minor[order], major[order], values[order], shape[::-1]
    starts = np.zeros(shape[0] + 1, np.int32)
    np.cumsum(np.bincount(major, minlength=shape[0]), out=starts[1:])
    parts = (starts, minor.astype(np.int32), np.ascontiguousarray(values, np.float32))
    moved = (torch.from_numpy(part).to(device) for part in parts)
    with warnings.catch_warnings():  # torch tells once that these tensors are young
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return Sparse(matrix=torch.sparse_csr_tensor(*moved, size=shape, check_invariants=False))


def narrow(torch: Any, change: Change, mask: Submatrix, *, dtype: str, device: str) -> Narrow:
    """The differences of a structural mask as a block of its columns."""
    values = _differences(change, dtype)
    block = np.zeros(mask.inside.size, np.float32)
    block[mask.inside.positions(0, mask.keep).astype(np.int64)] = values
    columns = torch.from_numpy(mask.columns.astype(np.int64)).to(device)
    return Narrow(columns=columns, block=torch.from_numpy(block.reshape(mask.rows, -1)).to(device))


def thin(torch: Any, factors: Factors, *, transposed: bool, device: str) -> Thin:
    """LoRA factors as their layer multiplies (`transposed`: the layer stores `col row`)."""
    outputs, inputs = factors.b * np.float32(factors.scale), factors.a
    left, right = (inputs.T, outputs.T) if factors.transposed else (outputs, inputs)  # row rank, rank col as stored
    b, a = (right.T, left.T) if transposed else (left, right)
    return Thin(a=_tensor(torch, a, device), b=_tensor(torch, b, device))


def _tensor(torch: Any, array: F32, device: str) -> Any:
    return torch.from_numpy(np.array(array, np.float32, order="C")).to(device)
