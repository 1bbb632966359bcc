"""Quantising values to a few bits with group scales, and packing the bits, as compiled loops."""

from typing import Any

import numpy as np

from deltagram.delta.compile_numba import boolean, f32, i64, inline, kernel, reads, u8, u16, void, writes

_SMALLEST = np.float32(2.0**-126)  # below it 1/scale overflows: such groups are stored as zeros


@inline
def _bf16(value: Any) -> Any:
    """A non-negative finite float32 rounded to the nearest bfloat16 pattern, ties to even."""
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
    return np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@inline
def _float(pattern: Any) -> Any:
    return np.uint32(np.uint32(pattern) << np.uint32(16)).view(np.float32)


@kernel(void(reads(f32), i64, i64, reads(f32), writes(u8), writes(u16)))
def quantise(values: Any, bits: Any, group: Any, shrink: Any, fields: Any, scales: Any) -> None:
    """Fields `code + top` of codes `-top..top`, and one bfloat16 scale a group, the best of `shrink`."""
    top = np.float32((1 << (bits - 1)) - 1)
    tries = shrink.size
    scale = np.empty(tries, np.float32)
    inverse = np.empty(tries, np.float32)
    error = np.empty(tries, np.float32)
    for g in range(scales.size):
        first, last = g * group, min((g + 1) * group, values.size)
        largest, total = np.float32(0), np.float32(0)
        for i in range(first, last):
            size = abs(values[i])
            largest = max(largest, size)
            total = np.float32(total + size)
        if bits == 1:
            pattern = _bf16(np.float32(total / np.float32(last - first)))
            scales[g] = pattern
            for i in range(first, last):
                fields[i] = np.uint8(0) if values[i] < np.float32(0) else np.uint8(1)
            continue
        for c in range(tries):
            scale[c] = _float(_bf16(np.float32(np.float32(largest / top) * shrink[c])))
            if scale[c] < _SMALLEST:
                scale[c] = np.float32(0)
            inverse[c] = np.float32(1) / scale[c] if scale[c] > np.float32(0) else np.float32(0)
            error[c] = np.float32(0)
        for i in range(first, last):
            v = values[i]
            for c in range(tries):
                code = min(max(np.rint(np.float32(v * inverse[c])), -top), top)
                miss = np.float32(v - np.float32(code * scale[c]))
                error[c] = np.float32(error[c] + np.float32(miss * miss))
        best = 0
        for c in range(1, tries):
            if error[c] < error[best]:
                best = c
        scales[g] = np.uint16(np.float32(scale[best]).view(np.uint32) >> np.uint32(16))
        for i in range(first, last):
            code = min(max(np.rint(np.float32(values[i] * inverse[best])), -top), top)
            fields[i] = np.uint8(code + top)


@kernel(boolean(reads(u8), i64, i64, reads(u16), writes(f32)))
def dequantise(fields: Any, bits: Any, group: Any, scales: Any, out: Any) -> Any:
    """`out = code * scale`; False if a field is not one that `quantise` writes."""
    top = np.int64((1 << (bits - 1)) - 1)
    valid: Any = True
    for g in range(scales.size):
        scale = _float(scales[g])
        for i in range(g * group, min((g + 1) * group, out.size)):
            if bits == 1:
                out[i] = scale if fields[i] == 1 else -scale
            else:
                valid &= np.int64(fields[i]) <= 2 * top
                out[i] = np.float32(np.float32(np.int64(fields[i]) - top) * scale)
    return valid


@kernel(void(reads(u8), i64, writes(u8)))
def pack_bits(fields: Any, bits: Any, out: Any) -> None:
    """Field i takes bits `i * bits` and up of one little-endian bit stream; the last byte is zero-padded."""
    pending, held, at = np.int64(0), np.int64(0), 0
    for i in range(fields.size):
        pending |= np.int64(fields[i]) << held
        held += bits
        while held >= 8:
            out[at] = np.uint8(pending & 255)
            at += 1
            pending >>= 8
            held -= 8
    if held > 0:
        out[at] = np.uint8(pending)


@kernel(boolean(reads(u8), i64, writes(u8)))
def unpack_bits(packed: Any, bits: Any, out: Any) -> Any:
    """The inverse of `pack_bits`; False if the padding is not zero."""
    pending, held, at = np.int64(0), np.int64(0), 0
    mask = np.int64((1 << bits) - 1)
    for i in range(out.size):
        while held < bits:
            pending |= np.int64(packed[at]) << held
            at += 1
            held += 8
        out[i] = np.uint8(pending & mask)
        pending >>= bits
        held -= bits
    return pending == 0
