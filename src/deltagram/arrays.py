"""Tensor dtypes by their safetensors names, and array aliases used in every room.

Axis vocabulary: ``sample class feature token context row col``; a flat tensor has ``entry``,
its kept entries ``kept``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bits = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, kw_only=True)
class DType:
    """A stored element type: its safetensors name, its width in bits, and how NumPy reads it.

    `floating` is NumPy's type for those that deltas can be computed in (F16, BF16, F32, F64), else None.
    """

    name: str
    width: int
    floating: np.dtype[np.generic] | None = None

    @property
    def bits(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The unsigned integer type that holds one element's bit pattern (bytes if narrower or wider)."""
        return np.dtype(_WORDS.get(self.width, np.uint8))


_WORDS: Mapping[int, type[np.unsignedinteger[Any]]] = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
_FLOATING = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64}
EXPONENT = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}  # all ones: NaN, infinity
_QUIET = {"F16": np.uint16(0x7E00), "BF16": np.uint16(0x7FC0), "F32": np.uint32(0x7FC00000),
          "F64": np.uint64(0x7FF8000000000000)}  # fmt: skip
_WIDTHS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

DTYPES: Mapping[str, DType] = {
    name: DType(name=name, width=width, floating=np.dtype(_FLOATING[name]) if name in _FLOATING else None)
    for name, width in _WIDTHS.items()
}


def entries(shape: tuple[int, ...]) -> int:
    """Number of entries of a tensor of `shape` (1 for a 0-d tensor, 0 for an empty one)."""
    return prod(shape)


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes a tensor takes in a safetensors file; sub-byte types are padded to a whole byte."""
    return -(-entries(shape) * DTYPES[dtype].width // 8)


def convert(bits: Bits, source: str, target: str) -> Bits:
    """The bit patterns of float type `source` rounded to nearest-even as bit patterns of `target`.

    A NaN becomes the quiet NaN of its sign without a payload, whatever the machine.

    >>> convert(np.array([0x3F80, 0xC000], np.uint16), "BF16", "F32").view(np.float32)
    array([ 1., -2.], dtype=float32)
    """
    if source == target:
        return bits
    found = rounded(as_floats(bits, source), target)
    top = bits.dtype.type(1 << (DTYPES[source].width - 1))
    missing = (bits & ~top) > bits.dtype.type(EXPONENT[source])
    if missing.any():
        sign = found.dtype.type(1 << (DTYPES[target].width - 1))
        negative = (bits & top) != 0
        found[missing] = _QUIET[target] | np.where(negative[missing], sign, found.dtype.type(0))
    return found


def rounded(floats: NDArray[Any], target: str) -> Bits:
    """Bit patterns of floats rounded once, to nearest-even, to float type `target`."""
    word = DTYPES[target].bits
    with np.errstate(over="ignore", invalid="ignore"):
        if target == "BF16" and floats.dtype == np.float64:
            floats = _to_odd(floats)
        return floats.astype(_FLOATING[target]).view(word)


def _to_odd(wide: NDArray[np.float64]) -> F32:
    """float32 whose last bit tells that something was cut off: a second rounding then is as good as one."""
    near = wide.astype(np.float32)
    bits = near.view(np.uint32).copy()
    cut = (near.astype(np.float64) != wide) & np.isfinite(near)
    bits[cut & (np.abs(near) > np.abs(wide))] -= np.uint32(1)
    bits[cut] |= np.uint32(1)
    return bits.view(np.float32)


def as_floats(bits: Bits, dtype: str) -> NDArray[Any]:
    """The same memory seen as floats of `dtype`."""
    return bits.view(_FLOATING[dtype])


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a checkpoint's header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return entries(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in a safetensors file."""
        return nbytes(self.dtype, self.shape)

    @property
    def floating(self) -> bool:
        """Whether differences can be computed: F16, BF16, F32 or F64."""
        return DTYPES[self.dtype].floating is not None

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"
