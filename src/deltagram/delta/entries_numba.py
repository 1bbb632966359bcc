"""Reading and patching single entries of float tensors by their bit patterns, as compiled loops."""

from typing import Any

import numpy as np

from deltagram.delta.compile_numba import (
    boolean,
    f32,
    f64,
    i64,
    inline,
    kernel,
    reads,
    u16,
    u32,
    u64,
    void,
    writes,
)

_F16, _BF16, _F32 = 0, 1, 2  # the kinds of deltagram.delta.kernels
_STRETCH = 1 << 14  # entries searched, then gathered from


@inline
def _widen(bits: Any, kind: Any) -> Any:
    """The float32 of a 16- or 32-bit pattern."""
    if kind == _F32:
        return np.uint32(bits).view(np.float32)
    if kind == _BF16:
        return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)
    half = np.uint32(bits)
    sign = np.uint32((half & np.uint32(0x8000)) << np.uint32(16))
    body = np.uint32((half & np.uint32(0x7FFF)) << np.uint32(13))
    if (half & np.uint32(0x7C00)) == np.uint32(0x7C00):
        body = np.uint32(body | np.uint32(0x7F800000))
        return np.uint32(sign | body).view(np.float32)
    value = np.uint32(body).view(np.float32) * np.float32(2.0**112)  # exact: shifts the exponent, subnormals included
    return np.uint32(sign | np.float32(value).view(np.uint32)).view(np.float32)


@inline
def _narrow(value: Any, kind: Any) -> Any:
    """The pattern nearest to a float32, ties to even; infinite where it does not fit."""
    bits = np.float32(value).view(np.uint32)
    if kind == _F32:
        return bits
    if kind == _BF16:
        if (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
            return np.uint32((bits >> np.uint32(16)) | np.uint32(0x0040))
        odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
        return np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    sign = np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000))
    body = np.uint32(bits & np.uint32(0x7FFFFFFF))
    if body >= np.uint32(0x47800000):  # 65536 and above, infinity, NaN
        return np.uint32(sign | np.uint32(0x7E00 if body > np.uint32(0x7F800000) else 0x7C00))
    if body < np.uint32(0x38800000):  # below 2^-14: adding 0.5 leaves the subnormal in the last bits
        shifted = np.float32(np.uint32(body).view(np.float32) + np.float32(0.5)).view(np.uint32)
        return np.uint32(sign | np.uint32(shifted - np.uint32(0x3F000000)))
    odd = np.uint32((body >> np.uint32(13)) & np.uint32(1))
    rebased = np.uint32(body - np.uint32(0x38000000) + np.uint32(0xFFF) + odd)
    return np.uint32(sign | np.uint32(rebased >> np.uint32(13)))


@inline
def _any(bits: Any, exponent: Any) -> Any:
    """Whether an entry has all bits of the mask `exponent` set: the largest masked pattern tells (a SIMD loop)."""
    largest = bits.dtype.type(0)
    for i in range(bits.size):
        largest = max(largest, bits[i] & exponent)
    return largest == exponent


@kernel(boolean(reads(u16), u16), boolean(reads(u32), u32), boolean(reads(u64), u64))
def all_finite(bits: Any, exponent: Any) -> Any:
    """Whether no entry has all bits of the mask `exponent` set."""
    return not _any(bits, exponent)


@kernel(
    boolean(reads(u16), i64, writes(u16), i64, reads(u64), u64, reads(f32), reads(f64), u64),
    boolean(reads(u16), i64, writes(u32), i64, reads(u64), u64, reads(f32), reads(f64), u64),
    boolean(reads(u32), i64, writes(u16), i64, reads(u64), u64, reads(f32), reads(f64), u64),
    boolean(reads(u32), i64, writes(u32), i64, reads(u64), u64, reads(f32), reads(f64), u64),
)
def apply(
    base: Any, base_kind: Any, out: Any, out_kind: Any, positions: Any, origin: Any, values: Any, divide_by: Any,
    row: Any,
) -> Any:  # fmt: skip
    """`out[p] = round(base[p] + values[k] / divide_by)` in float32; whether every result is finite."""
    exponent = np.uint32(0x7C00) if out_kind == _F16 else np.uint32(0x7F80 if out_kind == _BF16 else 0x7F800000)
    finite = True
    by_row = divide_by.size > 1
    index = np.uint64(0)
    end = np.uint64(0xFFFFFFFFFFFFFFFF)
    if by_row and positions.size > 0:
        index = positions[0] // row
        end = (index + np.uint64(1)) * row
    divisor = np.float32(divide_by[index])
    for k in range(positions.size):
        if positions[k] >= end:
            index = positions[k] // row
            end = (index + np.uint64(1)) * row
            divisor = np.float32(divide_by[index])
        p = positions[k] - origin
        bits = _narrow(_widen(base[p], base_kind) + np.float32(values[k] / divisor), out_kind)
        finite &= (bits & exponent) != exponent
        out[p] = bits
    return finite


@kernel(void(reads(f32), writes(u64), i64, u32))
def histogram(values: Any, counts: Any, shift: Any, prefix: Any) -> None:
    """Count magnitudes (float32 patterns without the sign) by 16 of their bits.

    `shift` 16 counts the upper halves; `shift` 0 the lower halves of those whose upper half is `prefix`.
    """
    for i in range(values.size):
        bits = np.uint32(np.float32(values[i]).view(np.uint32) & np.uint32(0x7FFFFFFF))
        if shift == 16:
            counts[bits >> np.uint32(16)] += np.uint64(1)
        elif (bits >> np.uint32(16)) == prefix:
            counts[bits & np.uint32(0xFFFF)] += np.uint64(1)


@kernel(i64(reads(f32), u32, i64, u64, writes(u64), writes(i64)))
def select(values: Any, threshold: Any, ties: Any, origin: Any, out: Any, used: Any) -> Any:
    """Positions (plus `origin`) of magnitudes above `threshold`, and the first `ties` equal to it.

    Returns how many were written; `used[0]` is how many ties were taken.
    """
    at, taken = 0, 0
    for i in range(values.size):
        bits = np.uint32(np.float32(values[i]).view(np.uint32) & np.uint32(0x7FFFFFFF))
        if bits < threshold:
            continue
        if bits == threshold:
            if taken == ties:
                continue
            taken += 1
        out[at] = origin + np.uint64(i)
        at += 1
    used[0] = taken
    return at


@kernel(
    *(
        i64(writes(word), reads(u32), reads(word), reads(word), reads(u32), reads(word), reads(word))
        for word in (u16, u32, u64)
    )
)
def exchange(bits: Any, off: Any, off_expected: Any, off_new: Any, on: Any, on_expected: Any, on_new: Any) -> Any:
    """Write `off_new` at `off`, then `on_new` at `on`; -1, or the first position that is not as expected.

    A fault undoes all. Two plain loops: a merged walk that shares cache lines is slower, for its many exits.
    """
    for i in range(off.size):
        p = off[i]
        if bits[p] != off_expected[i]:
            for k in range(i):
                bits[off[k]] = off_expected[k]
            return np.int64(p)
        bits[p] = off_new[i]
    for j in range(on.size):
        p = on[j]
        if bits[p] != on_expected[j]:
            for k in range(j):
                bits[on[k]] = on_expected[k]
            for k in range(off.size):
                bits[off[k]] = off_expected[k]
            return np.int64(p)
        bits[p] = on_new[j]
    return np.int64(-1)


@kernel(
    *(
        i64(reads(base), base, i64, reads(tuned), tuned, i64, reads(u64), u64, writes(f32))
        for base in (u16, u32)
        for tuned in (u16, u32)
    )
)
def survey(
    base: Any,
    base_exponent: Any,
    base_kind: Any,
    tuned: Any,
    tuned_exponent: Any,
    tuned_kind: Any,
    positions: Any,
    origin: Any,
    out: Any,
) -> Any:
    """`out[k] = tuned - base` at `positions[k] - origin`; 1 if the base holds NaN or infinity, plus 2 for the tuned.

    Gathers from each stretch right after searching it, while it is in the nearest cache.
    """
    base_bad, tuned_bad, k = False, False, 0
    for start in range(0, base.size, _STRETCH):
        stop = min(start + _STRETCH, base.size)
        base_bad |= _any(base[start:stop], base_exponent)
        tuned_bad |= _any(tuned[start:stop], tuned_exponent)
        first = k
        while k < positions.size and positions[k] - origin < np.uint64(stop):
            k += 1
        for j in range(first, k):
            p = positions[j] - origin
            out[j] = _widen(tuned[p], tuned_kind) - _widen(base[p], base_kind)
    return np.int64(base_bad) + np.int64(2) * np.int64(tuned_bad)
