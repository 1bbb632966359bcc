"""The kernels' one typed face. Flat arrays throughout; positions ascend; see `backend` for who computes.

Float kinds are passed as numbers because compiled code has no dtypes: see `KIND`.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import EXPONENT, F32, F64, U8, U16, U64, Bits
from deltagram.delta import entries_numpy
from deltagram.delta.backend import family

KIND: Final = {"F16": 0, "BF16": 1, "F32": 2, "F64": 3}


def stratified(size: int, keep: int, key: int, first: int, last: int) -> U64:
    """Positions of kept entries `first` to `last - 1` of a stratified mask; `1 <= keep <= size`."""
    out = np.empty(last - first, np.uint64)
    family("positions").stratified(np.uint64(size), np.uint64(keep), np.uint64(key), np.uint64(first), out)
    return out


def bernoulli_counts(threshold: int, key: int, start: int, stop: int) -> int:
    """How many entries of `start` to `stop - 1` have a random word below `threshold` (0 to 2^32)."""
    return int(
        family("positions").bernoulli_count(np.uint64(threshold), np.uint64(key), np.uint64(start), np.uint64(stop))
    )


def bernoulli(threshold: int, key: int, start: int, stop: int, count: int) -> U64:
    """The `count` positions in `start` to `stop - 1` whose random word is below `threshold`."""
    out = np.empty(count + 1, np.uint64)  # the loop writes before it knows whether to keep
    family("positions").bernoulli(np.uint64(threshold), np.uint64(key), np.uint64(start), np.uint64(stop), out)
    return out[:count]


def all_finite(bits: Bits, dtype: str) -> bool:
    """Whether no entry of a float tensor (its bit patterns) is NaN or infinite."""
    return bool(family("entries").all_finite(bits, bits.dtype.type(EXPONENT[dtype])))


def survey(
    base: Bits, base_dtype: str, tuned: Bits, tuned_dtype: str, positions: U64, origin: int
) -> tuple[F32, bool, bool]:
    """`tuned - base` at `positions - origin` of two blocks, and whether each block is all finite.

    In float32, or in float64 and then rounded if either is F64.
    """
    out = np.empty(positions.size, np.float32)
    found = _entries(base_dtype, tuned_dtype).survey(
        base, base.dtype.type(EXPONENT[base_dtype]), KIND[base_dtype],
        tuned, tuned.dtype.type(EXPONENT[tuned_dtype]), KIND[tuned_dtype], positions, np.uint64(origin), out,
    )  # fmt: skip
    return out, not found & 1, not found & 2


def apply(
    base: Bits,
    base_dtype: str,
    out: Bits,
    out_dtype: str,
    positions: U64,
    origin: int,
    values: F32,
    divide_by: NDArray[Any],
    row: int,
) -> bool:
    """`out[p] = round(float(base[p]) + value / divide_by[p // row])` at each position; True if all are finite.

    `p = positions - origin`; the row is taken of the position itself. `divide_by` is float64 of one entry
    (for the whole tensor; `row` is ignored) or of one entry a row. Computed in float32 with `divide_by`
    rounded to float32, or in float64 if either tensor is F64. `out` may be `base`.
    """
    done = _entries(base_dtype, out_dtype).apply(
        base, KIND[base_dtype], out, KIND[out_dtype], positions, np.uint64(origin), values,
        np.ascontiguousarray(divide_by, np.float64).reshape(-1), np.uint64(row),
    )  # fmt: skip
    return bool(done)


def _entries(*dtypes: str) -> Any:
    """The family for these float types: F64 is rare, and NumPy serves it well."""
    return entries_numpy if "F64" in dtypes else family("entries")


def exchange(
    bits: Bits,
    off: NDArray[Any],
    off_expected: Bits,
    off_new: Bits,
    on: NDArray[Any],
    on_expected: Bits,
    on_new: Bits,
) -> int:
    """In place: write `off_new` at positions `off`, then `on_new` at `on`; -1 when done.

    If an entry does not hold what is expected of it, all is undone and the entry is returned.
    """
    compiled = bits.dtype.itemsize > 1 and off.dtype == on.dtype == np.uint32
    chosen = family("entries") if compiled else entries_numpy
    return int(chosen.exchange(bits, off, off_expected, off_new, on, on_expected, on_new))


def magnitude_histogram(values: F32, counts: U64, *, prefix: int | None = None) -> None:
    """Add to `counts` (65,536 bins) the magnitudes of `values` by the upper half of their float32 pattern.

    With `prefix`: by the lower half, of those whose upper half is `prefix`.
    """
    family("entries").histogram(values, counts, 16 if prefix is None else 0, np.uint32(prefix or 0))


def select_largest(values: F32, threshold: int, ties: int, origin: int) -> tuple[U64, int]:
    """Positions (plus `origin`) of magnitudes whose pattern is above `threshold`, and the first `ties` equal to it.

    Returns the positions and the number of ties among them.
    """
    out = np.empty(values.size, np.uint64)
    used = np.zeros(1, np.int64)
    count = family("entries").select(values, np.uint32(threshold), ties, np.uint64(origin), out, used)
    return out[:count], int(used[0])


def weighted(values: F32, norms: F32, *, first: int, inner: int = 1) -> F32:
    """Scores `|values[i]| norms[(first + i) div inner mod norms.size]` in float32; `first` is the block's first entry.

    With `inner` 1 a norm belongs to each entry of a row, with `inner` the length of a row to each row.
    """
    out = np.empty(values.size, np.float32)
    family("scores").weighted(values, norms, first, inner, out)
    return out


def select_rows(scores: F32, *, quota: NDArray[np.int64], origin: int) -> U64:
    """Positions (plus `origin`) of the `quota[r]` largest magnitudes in each row r of whole rows; of equals, the first.

    `0 <= quota[r] <=` the length of a row, which is `scores.size / quota.size`.
    """
    out = np.empty(int(quota.sum()), np.uint64)
    family("scores").select_rows(scores, scores.size // quota.size, quota, np.uint64(origin), out)
    return out


def column_squares(values: F32, total: F64) -> None:
    """In place: add the squares of the entries of whole rows to `total`, one entry a column."""
    family("scores").column_squares(values, total)


def quantise(values: F32, *, bits: int, group: int, shrink: F32) -> tuple[U8, U16]:
    """Uniform codes of `values` (1 to 8 bits) and one bfloat16 scale (its pattern) for each `group` of them.

    A field is `code + 2^(bits-1) - 1`; for one bit it is 1 where the value is not negative. Each group takes
    the scale `largest / top * shrink[c]` whose squared error is least (the first of equals); one bit takes
    the mean magnitude, which is the least-squares scale of signs.
    """
    fields = np.empty(values.size, np.uint8)
    scales = np.empty(-(-values.size // group), np.uint16)
    family("codes").quantise(values, bits, group, shrink, fields, scales)
    return fields, scales


def dequantise(fields: U8, scales: U16, *, bits: int, group: int) -> F32:
    """The float32 values of fields and scales; ValueError for a field that no value has."""
    out = np.empty(fields.size, np.float32)
    if not family("codes").dequantise(fields, bits, group, scales, out):
        raise ValueError(f"a {bits}-bit code is out of range")
    return out


def pack_bits(fields: U8, *, bits: int) -> U8:
    """Fields of `bits` bits each as one little-endian bit stream, zero-padded to a whole byte."""
    out = np.empty(-(-fields.size * bits // 8), np.uint8)
    family("codes").pack_bits(fields, bits, out)
    return out


def unpack_bits(packed: U8, *, bits: int, count: int) -> U8:
    """`count` fields of a bit stream of exactly their size; ValueError if the padding is not zero."""
    out = np.empty(count, np.uint8)
    if not family("codes").unpack_bits(packed, bits, out):
        raise ValueError("the padding of the codes is not zero")
    return out
