"""Kept columns served as what they are: one small dense product beside the base's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, U32
from deltagram.delta.stored import Pruned
from deltagram.delta.submatrix import Submatrix


def column_block(tensor: Pruned) -> tuple[U32, F32]:
    """The chosen columns of a `columns` delta, and what the delta adds to them: float32, `row col` of the chosen.

    Kept values are divided by `divide_by` already; entries that are not kept are zero. Raises ValueError for a
    tensor with another mask, and for one with rows that the base lacks.
    """
    mask = tensor.mask
    if not isinstance(mask, Submatrix):
        raise ValueError(f"a {type(mask).__name__.lower()} mask has no chosen columns")
    if tensor.rows is not None:
        raise ValueError("rows that the base lacks are no delta")
    inside = mask.inside.positions(0, mask.keep).astype(np.int64)
    divisor = tensor.divide_by.astype(np.float32)
    block = np.zeros(mask.inside.size, np.float32)
    block[inside] = tensor.values / (divisor[inside // mask.columns.size] if divisor.ndim else divisor)
    return mask.columns, block.reshape(mask.rows, mask.columns.size)


def column_product(x: NDArray[Any], columns: U32 | Sequence[int], block: F32) -> NDArray[Any]:
    """What a delta of kept columns adds to a linear layer's output: `x[..., columns] @ block.T`.

    `x` is `... col`, the result `... row`: a product with `len(columns)` columns, whatever the layer's width.
    DAREx (arXiv 2410.09344) 5.1, structural pruning.

    >>> column_product(np.array([[1.0, 2.0, 4.0]]), [0, 2], np.array([[1, 1], [0, 3]], np.float32))
    array([[ 5., 12.]])
    """
    product: NDArray[Any] = x[..., np.asarray(columns, np.int64)] @ block.T
    return product
