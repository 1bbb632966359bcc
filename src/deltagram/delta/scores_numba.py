"""Scores of differences by their inputs, and the largest of each row, as compiled loops."""

from typing import Any

import numpy as np

from deltagram.delta.compile_numba import f32, f64, i64, kernel, reads, u64, void, writes


@kernel(void(reads(f32), reads(f32), i64, i64, writes(f32)))
def weighted(values: Any, norms: Any, first: Any, inner: Any, out: Any) -> None:
    """`out[i] = |values[i]| norms[(first + i) div inner mod norms.size]`."""
    at, left = first // inner % norms.size, inner - first % inner
    for i in range(values.size):
        out[i] = abs(values[i]) * norms[at]
        left -= 1
        if left == 0:
            left = inner
            at = 0 if at + 1 == norms.size else at + 1


@kernel(i64(reads(f32), i64, reads(i64), u64, writes(u64)))
def select_rows(scores: Any, cols: Any, quota: Any, origin: Any, out: Any) -> Any:
    """Positions (plus `origin`) of the `quota[r]` largest magnitudes of each row r; of equals, the first.

    The last one kept is found by four histograms of eight bits of its pattern, highest first.
    """
    counts = np.empty(256, np.int64)
    at = 0
    for r in range(quota.size):
        start, prefix, left = r * cols, np.uint32(0), quota[r]
        if left == 0:
            continue
        for step in range(4):
            shift = np.uint32(24 - 8 * step)
            counts[:] = 0
            for i in range(start, start + cols):
                bits = np.uint32(np.float32(scores[i]).view(np.uint32) & np.uint32(0x7FFFFFFF))
                if step == 0 or (bits >> (shift + np.uint32(8))) == prefix:
                    counts[(bits >> shift) & np.uint32(0xFF)] += 1
            digit = 255
            while counts[digit] < left:
                left -= counts[digit]
                digit -= 1
            prefix = np.uint32((prefix << np.uint32(8)) | np.uint32(digit))
        for i in range(start, start + cols):
            bits = np.uint32(np.float32(scores[i]).view(np.uint32) & np.uint32(0x7FFFFFFF))
            if bits < prefix or (bits == prefix and left == 0):
                continue
            left -= np.int64(bits == prefix)
            out[at] = origin + np.uint64(i)
            at += 1
    return at


@kernel(void(reads(f32), writes(f64)))
def column_squares(values: Any, total: Any) -> None:
    """Add the squares of whole rows to `total`, one entry a column, row after row."""
    cols = total.size
    for start in range(0, values.size, cols):
        for j in range(cols):
            value = np.float64(values[start + j])
            total[j] += value * value
