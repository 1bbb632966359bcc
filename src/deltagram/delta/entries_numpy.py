"""Reading and patching single entries of float tensors, in NumPy: the twin of `entries_numba`.

Also the only implementation for F64.
"""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, F64, U64, Bits, rounded

_NAMES = ("F16", "BF16", "F32", "F64")
_TYPES: tuple[type[np.generic], ...] = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


def all_finite(bits: Bits, exponent: np.unsignedinteger) -> bool:
    """Whether no entry has all bits of the mask `exponent` set."""
    return not bool(np.any((bits & exponent) == exponent))


def apply(
    base: Bits,
    base_kind: int,
    out: Bits,
    out_kind: int,
    positions: U64,
    origin: np.uint64,
    values: F32,
    divide_by: F64,
    row: np.uint64,
) -> bool:
    """`out[p] = round(base[p] + values[k] / divide_by)`; whether every result is finite."""
    wide = np.float64 if 3 in (base_kind, out_kind) else np.float32
    p = positions - origin
    divisor: NDArray[Any] = divide_by.astype(wide)
    by_entry = divisor[positions // row] if divisor.size > 1 else divisor
    with np.errstate(over="ignore"):
        total: NDArray[Any] = base[p].view(_TYPES[base_kind]).astype(wide) + values.astype(wide) / by_entry
    result = rounded(total, _NAMES[out_kind])
    out[p] = result
    return bool(np.isfinite(result.view(_TYPES[out_kind])).all())


def histogram(values: F32, counts: U64, shift: int, prefix: np.uint32) -> None:
    """Count magnitudes by the upper 16 bits (`shift` 16), or by the lower ones of those with upper `prefix`."""
    bits = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    if shift == 0:
        bits = bits[bits >> np.uint32(16) == prefix] & np.uint32(0xFFFF)
    counts += np.bincount(bits >> np.uint32(shift), minlength=counts.size).astype(np.uint64)


def select(values: F32, threshold: np.uint32, ties: int, origin: np.uint64, out: U64, used: NDArray[np.int64]) -> int:
    """Positions of magnitudes above `threshold`, and the first `ties` equal to it; how many there are."""
    bits = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    chosen = bits > threshold
    equal = np.flatnonzero(bits == threshold)[:ties]
    chosen[equal] = True
    found = np.flatnonzero(chosen).astype(np.uint64)
    out[: found.size] = found + origin
    used[0] = equal.size
    return int(found.size)


def exchange(
    bits: Bits,
    off: NDArray[Any],
    off_expected: Bits,
    off_new: Bits,
    on: NDArray[Any],
    on_expected: Bits,
    on_new: Bits,
) -> int:
    """Write `off_new` at `off`, then `on_new` at `on`; -1, or a position that is not as expected (nothing changed)."""
    wrong = np.flatnonzero(bits[off] != off_expected)
    if wrong.size:
        return int(off[wrong[0]])
    bits[off] = off_new
    wrong = np.flatnonzero(bits[on] != on_expected)
    if wrong.size:
        bits[off] = off_expected
        return int(on[wrong[0]])
    bits[on] = on_new
    return -1


def survey(
    base: Bits,
    base_exponent: np.unsignedinteger[Any],
    base_kind: int,
    tuned: Bits,
    tuned_exponent: np.unsignedinteger[Any],
    tuned_kind: int,
    positions: U64,
    origin: np.uint64,
    out: F32,
) -> int:
    """`out = tuned - base` at positions; 1 if the base holds NaN or infinity, plus 2 if the tuned does."""
    wide = np.float64 if 3 in (base_kind, tuned_kind) else np.float32
    p = positions - origin
    with np.errstate(over="ignore", invalid="ignore"):
        out[:] = tuned[p].view(_TYPES[tuned_kind]).astype(wide) - base[p].view(_TYPES[base_kind]).astype(wide)
    return int(not all_finite(base, base_exponent)) + 2 * int(not all_finite(tuned, tuned_exponent))
