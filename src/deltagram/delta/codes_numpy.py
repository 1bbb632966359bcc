"""Quantising values to a few bits with group scales, and packing the bits, in NumPy: twin of `codes_numba`."""

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, U8, U16

_SMALLEST = np.float32(2.0**-126)


def _grouped(values: F32, group: int, groups: int) -> F32:
    padded = np.zeros(groups * group, np.float32)
    padded[: values.size] = values
    return padded.reshape(groups, group)


def _bf16(values: F32) -> F32:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def _patterns(scales: F32) -> U16:
    return (scales.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def quantise(values: F32, bits: int, group: int, shrink: F32, fields: U8, scales: U16) -> None:
    """Fields `code + top` of codes `-top..top`, and one bfloat16 scale a group, the best of `shrink`."""
    table = _grouped(values, group, scales.size)
    if bits == 1:
        total = np.zeros(scales.size, np.float32)
        for column in range(group):
            total += np.abs(table[:, column])
        counts = np.minimum(group, values.size - group * np.arange(scales.size)).astype(np.float32)
        scales[:] = _patterns(_bf16(total / counts))
        fields[:] = values >= 0
        return
    top = np.float32((1 << (bits - 1)) - 1)
    largest = np.abs(table).max(axis=1) if scales.size else np.zeros(0, np.float32)
    scale = _bf16((largest / top)[:, None] * shrink[None, :])
    scale[scale < _SMALLEST] = 0
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale > 0, np.float32(1) / scale, np.float32(0))
        error = np.zeros_like(scale)
        for column in range(group):
            v = table[:, column : column + 1]
            miss = v - np.clip(np.rint(v * inverse), -top, top) * scale
            error += miss * miss
    best = error.argmin(axis=1)[:, None] if scales.size else np.zeros((0, 1), np.int64)
    scales[:] = _patterns(np.ascontiguousarray(np.take_along_axis(scale, best, 1)[:, 0]))
    codes = np.clip(np.rint(table * np.take_along_axis(inverse, best, 1)), -top, top)
    fields[:] = (codes + top).astype(np.uint8).ravel()[: values.size]


def dequantise(fields: U8, bits: int, group: int, scales: U16, out: F32) -> bool:
    """`out = code * scale`; False if a field is not one that `quantise` writes."""
    scale = np.repeat((scales.astype(np.uint32) << np.uint32(16)).view(np.float32), group)[: out.size]
    if bits == 1:
        out[:] = np.where(fields == 1, scale, -scale)
        return True
    top = (1 << (bits - 1)) - 1
    with np.errstate(invalid="ignore", over="ignore"):
        out[:] = (fields.astype(np.int16) - top).astype(np.float32) * scale
    return bool(fields.size == 0 or fields.max() <= 2 * top)


def pack_bits(fields: U8, bits: int, out: U8) -> None:
    """Field i takes bits `i * bits` and up of one little-endian bit stream; the last byte is zero-padded."""
    lanes: NDArray[np.uint8] = (fields[:, None] >> np.arange(bits, dtype=np.uint8)) & np.uint8(1)
    out[:] = np.packbits(lanes.ravel(), bitorder="little")


def unpack_bits(packed: U8, bits: int, out: U8) -> bool:
    """The inverse of `pack_bits`; False if the padding is not zero."""
    stream = np.unpackbits(packed, bitorder="little")
    used = out.size * bits
    lanes = stream[:used].reshape(out.size, bits)
    out[:] = (lanes << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    return not bool(stream[used:].any())
