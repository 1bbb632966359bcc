"""How kept values are stored: float types, uniform codes with group scales, or a fitted codebook."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import ml_dtypes
import numpy as np

from deltagram.arrays import F32, U8, U16, U64
from deltagram.delta import kernels

GROUP: Final = 64
_SHRINK_STEPS: Final = 16


@dataclass(frozen=True, kw_only=True)
class Floats:
    """Values rounded to a float type."""

    dtype: Literal["F32", "BF16", "F16"]

    def nbytes(self, count: int) -> int:
        """Bytes that `count` values take before packing."""
        return count * (4 if self.dtype == "F32" else 2)


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Codes -top..top with top = 2^(bits-1) - 1 (signs alone for one bit), one bfloat16 scale a group."""

    bits: int
    group: int = GROUP

    def nbytes(self, count: int) -> int:
        """Bytes that the scales and codes of `count` values take before packing."""
        return 2 * -(-count // self.group) + -(-count * self.bits // 8)


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """Indices into 2^bits float32 entries fitted to one tensor's kept values (Lloyd 1982)."""

    bits: int

    def nbytes(self, count: int) -> int:
        """Bytes that the entries, and the indices of `count` values, take before packing."""
        return (4 << self.bits) + -(-count * self.bits // 8)


Values = Floats | Uniform | Codebook

VALUES: Final[Mapping[str, Values]] = {
    "f32": Floats(dtype="F32"),
    "bf16": Floats(dtype="BF16"),
    "f16": Floats(dtype="F16"),
    "8bit": Uniform(bits=8),
    "7bit": Uniform(bits=7),
    "6bit": Uniform(bits=6),
    "5bit": Uniform(bits=5),
    "4bit": Uniform(bits=4),
    "3bit": Uniform(bits=3),
    "2bit": Uniform(bits=2),
    "sign": Uniform(bits=1),
    "codebook8": Codebook(bits=8),
    "codebook4": Codebook(bits=4),
    "codebook3": Codebook(bits=3),
    "codebook2": Codebook(bits=2),
}


def name_of(setting: Values) -> str:
    """The name of a setting in `VALUES`, or for one that has none there, what it is."""
    return next((name for name, known in VALUES.items() if known == setting), str(setting))


def encode_uniform(values: F32, setting: Uniform) -> tuple[U8, U16]:
    """Fields and group scales of `values`; at few bits each scale is the best of 16 shrunken maxima."""
    tries = 1 if setting.bits == 8 else _SHRINK_STEPS
    shrink = (1 - 0.05 * np.arange(tries)).astype(np.float32)
    return kernels.quantise(values, bits=setting.bits, group=setting.group, shrink=shrink)


def decode_uniform(fields: U8, scales: U16, setting: Uniform) -> F32:
    """The float32 values of fields and scales. Raises ValueError for a field that no value has."""
    return kernels.dequantise(fields, scales, bits=setting.bits, group=setting.group)


def histogram(values: F32, counts: U64 | None = None) -> U64:
    """Add to `counts` (65,536 bins) how often each bfloat16 pattern is nearest to a value."""
    if counts is None:
        counts = np.zeros(1 << 16, np.uint64)
    patterns = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    return counts + np.bincount(patterns, minlength=1 << 16).astype(np.uint64)


def fit_codebook(counts: U64, setting: Codebook, *, rounds: int = 200) -> F32:
    """Ascending codebook entries that minimise squared error over a `histogram` (Lloyd's algorithm).

    It starts from the asymptotically best density, the cube root of the values' own (Panter and Dite 1951),
    and stops when no boundary moves. S. P. Lloyd, "Least squares quantization in PCM", IEEE Transactions on
    Information Theory 28(2), 1982.
    """
    used = np.flatnonzero(counts)
    x = used.astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)
    order = np.argsort(x, kind="stable")
    x, weight = x[order], counts[used][order].astype(np.float64)
    entries = 1 << setting.bits
    if x.size == 0:
        return np.zeros(entries, np.float32)
    mass = np.concatenate([[0.0], np.cumsum(weight)])
    moment = np.concatenate([[0.0], np.cumsum(weight * x)])
    spread = np.cumsum(np.cbrt(weight * np.gradient(x) ** 2 if x.size > 1 else weight))
    cuts = np.searchsorted(spread, spread[-1] * np.arange(1, entries) / entries)
    book = np.zeros(entries)
    for _ in range(rounds):
        edges = np.concatenate([[0], cuts, [x.size]])
        total = mass[edges[1:]] - mass[edges[:-1]]
        centre = (moment[edges[1:]] - moment[edges[:-1]]) / np.where(total > 0, total, 1)
        book = np.where(total > 0, centre, x[np.minimum(edges[:-1], x.size - 1)])
        moved = np.searchsorted(x, (book[1:] + book[:-1]) / 2)
        if np.array_equal(moved, cuts):
            break
        cuts = moved
    return np.sort(book.astype(np.float32))


def encode_codebook(values: F32, book: F32) -> U8:
    """The index of the nearest codebook entry of each value (of two equally near, the lower)."""
    middles = (book[1:].astype(np.float64) + book[:-1]) / 2
    return np.searchsorted(middles, values, side="left").astype(np.uint8)
