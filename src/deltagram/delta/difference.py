"""What fine-tuning added: differences of floats, and reversible distances between bit patterns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, Bits, as_floats, convert, rounded


def difference(base: Bits, base_dtype: str, tuned: Bits, tuned_dtype: str) -> F32:
    """`tuned - base` of flat tensors in float32 (in float64 if either is F64, then rounded)."""
    wide = "F64" if "F64" in (base_dtype, tuned_dtype) else "F32"
    with np.errstate(over="ignore", invalid="ignore"):
        found = as_floats(convert(tuned, tuned_dtype, wide), wide) - as_floats(convert(base, base_dtype, wide), wide)
        narrow: F32 = found.astype(np.float32, copy=False)
        return narrow


def shifted(base: Bits, dtype: str, values: F32, divide_by: NDArray[Any]) -> Bits:
    """`round(float32(base) + values / float32(divide_by))` entry by entry (in float64 for F64)."""
    wide = np.float64 if dtype == "F64" else np.float32
    with np.errstate(over="ignore"):
        total = as_floats(base, dtype).astype(wide) + values.astype(wide) / divide_by.astype(wide)
        return rounded(total, dtype)


def distance(base: Bits, tuned: Bits, *, floating: bool) -> Bits:
    """How many representable numbers lie between two patterns, with sign, as a zigzag word; lossless.

    Patterns of floats are first ordered as their values are (so -0 and NaN payloads stay distinct) and
    subtracted modulo 2^width; others are combined by XOR. `restore_distance` inverts it.
    """
    if not floating:
        return base ^ tuned
    word = base.dtype.type
    top = word(8 * base.itemsize - 1)
    step = _ordered(tuned) - _ordered(base)
    return (step << word(1)) ^ (word(0) - (step >> top))


def restore_distance(base: Bits, zigzag: Bits, *, floating: bool) -> Bits:
    """The tuned patterns from the base's and `distance`."""
    if not floating:
        return base ^ zigzag
    word = base.dtype.type
    step = (zigzag >> word(1)) ^ (word(0) - (zigzag & word(1)))
    return _unordered(_ordered(base) + step)


def _ordered(patterns: Bits) -> Bits:
    """Integers that ascend as the floats do: negatives inverted, the sign bit set on the others."""
    word = patterns.dtype.type
    top = word(8 * patterns.itemsize - 1)
    return patterns ^ ((word(0) - (patterns >> top)) | (word(1) << top))


def _unordered(ordered: Bits) -> Bits:
    word = ordered.dtype.type
    top = word(8 * ordered.itemsize - 1)
    return ordered ^ (((ordered >> top) - word(1)) | (word(1) << top))
