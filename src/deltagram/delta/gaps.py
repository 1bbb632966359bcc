"""Ascending positions as gaps: Golomb codes (the typed face of the kernels), byte planes, bitmaps.

The Golomb code is Golomb's, "Run-length encodings" (IEEE Trans. Inf. Theory 12, 1966): a gap is cut into a
quotient and a remainder by the divisor M; the quotient is unary, the remainder truncated binary. A gap
is the number of entries left out before a kept one: `position - (previous position + 1)`, where
`start` stands for `previous position + 1` of the first.

Bit layout. Bit i of the stream is bit `i mod 8` of byte `i div 8`, least significant first. With
`k = floor(log2 M)` and `u = 2^(k+1) - M`, three runs of bits follow each other without padding:

1. for each gap in order, a field of k bits, least significant first: `r` if the remainder r is below u,
   else `(r + u) div 2`;
2. for each gap with `r >= u` in order, one bit: `(r + u) mod 2`;
3. for each gap in order, its quotient q as q zero bits and a one bit.

Zero bits fill the last byte. Each bit pattern of a field is the code of some remainder below M, so
a stream is damaged only if it ends early, goes on, or says a position that does not exist.
"""

from typing import Final

import numpy as np

from deltagram.arrays import U8, U64
from deltagram.delta.backend import family

BLOCK: Final = 1 << 16
MAX_SIZE: Final = 1 << 47  # entries of a tensor; then no sum of 2^16 gaps of six bytes wraps
BITMAP_BITS: Final = 7

_FAULTS = (
    "",
    "Golomb-coded positions are truncated",
    "bits follow the last Golomb-coded position",
    "a Golomb-coded position is out of range",
)


def golomb_divisor(size: int, keep: int) -> int:
    """The divisor that codes random positions, `keep` of `size`, in the fewest bits; `1 <= keep <= size`.

    Gallager and van Voorhis ("Optimal source codes for geometrically distributed integer alphabets",
    IEEE Trans. Inf. Theory 21, 1975): with p = keep / size, `ceil(ln(2 - p) / -ln(1 - p))`. That is
    `ln 2 / p - (1 + ln 2) / 2 + O(p)`, computed here in integers, so that every machine finds the same.

    >>> golomb_divisor(1000, 10), golomb_divisor(10, 5), golomb_divisor(1, 1)
    (69, 1, 1)
    """
    return max(1, -((846_574 * keep - 693_147 * size) // (1_000_000 * keep)))


def positions_bound(size: int, keep: int) -> int:
    """Bytes at most that any `keep` positions below `size` take as Golomb codes, block table included.

    A gap g takes at most k + 2 + g div M bits, and the gaps add up to size - keep.
    """
    divisor = golomb_divisor(size, keep)
    bits = keep * (divisor.bit_length() + 1) + (size - keep) // divisor
    return bits // 8 + 13 * -(-keep // BLOCK)


def _code(divisor: int) -> tuple[int, int]:
    """Width of the fixed field, and how many remainders it is the whole code of."""
    width = divisor.bit_length() - 1
    return width, (2 << width) - divisor


def golomb_encode(gaps: U64, divisor: int) -> bytes:
    """The bit stream of `gaps`; takes memory for `sum(gaps) / divisor` bits and a few words a gap."""
    width, short = _code(divisor)
    quotients = gaps // np.uint64(divisor)
    remainders = gaps - quotients * np.uint64(divisor)
    words = np.zeros((gaps.size * (width + 2) + int(quotients.sum())) // 64 + 2, "<u8")
    bits = int(family("gaps").golomb_pack(quotients, remainders, np.uint64(width), np.uint64(short), words))
    return words.view(np.uint8)[: -(-bits // 8)].tobytes()


def golomb_decode(data: memoryview | bytes, *, divisor: int, start: int, stop: int, count: int) -> U64:
    """The `count` ascending positions, from `start` to `stop - 1`, that `data` is the bit stream of.

    Needs `1 <= divisor` and `start <= stop <= 2^47`; any bytes are safe. Raises ValueError for damage.
    """
    width, short = _code(divisor)
    if count * (width + 1) > 8 * len(data):
        raise ValueError(_FAULTS[1])
    words = np.zeros(len(data) // 8 + 2, "<u8")
    words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
    out = np.empty(count, np.uint64)
    numbers = (np.uint64(number) for number in (8 * len(data), divisor, width, short, start, stop))
    status = int(family("gaps").golomb_unpack(words, *numbers, out))
    if status:
        raise ValueError(_FAULTS[status])
    return out


def planes(*, span: int, count: int) -> int:
    """Bytes that hold any gap of `count` positions in `span` entries; at least one."""
    return max(1, -(-(span - count).bit_length() // 8))


def to_planes(gaps: U64, *, span: int) -> bytes:
    """All lowest bytes of `gaps`, then all second lowest, as many as a gap in `span` entries can have."""
    rows = gaps.astype("<u8", copy=False).view(np.uint8).reshape(gaps.size, 8)
    return rows[:, : planes(span=span, count=gaps.size)].T.tobytes()


def from_planes(content: U8, *, start: int, stop: int, count: int) -> U64:
    """The positions, from `start` to `stop - 1`, whose gaps `content` holds; ValueError if one is outside.

    Needs `1 <= count <= 2^16`, and `count` bytes a plane.
    """
    width = planes(span=stop - start, count=count)
    rows = np.zeros((count, 8), np.uint8)
    rows[:, :width] = content.reshape(width, count).T
    out = rows.view("<u8").ravel()
    if int(out.sum()) > stop - start - count:
        raise ValueError("a gap between positions is out of range")
    out += np.uint64(1)
    out[0] += np.uint64(start)
    np.cumsum(out, out=out)
    out -= np.uint64(1)
    return out


def to_bitmap(gaps: U64, *, span: int) -> bytes:
    """One bit an entry, seven to a byte, least significant first; the top bit of each byte is zero."""
    flags = np.zeros((-(-span // BITMAP_BITS), BITMAP_BITS), np.uint8)
    flags.ravel()[(np.cumsum(gaps + np.uint64(1)) - np.uint64(1)).view(np.int64)] = 1
    packed = np.zeros(flags.shape[0], np.uint8)
    for bit in range(BITMAP_BITS):
        packed |= flags[:, bit] << np.uint8(bit)
    return packed.tobytes()


def from_bitmap(content: U8, *, start: int, stop: int, count: int) -> U64:
    """The `count` positions, from `start` to `stop - 1`, whose bits `content` sets, else ValueError."""
    flags = np.empty((content.size, BITMAP_BITS), np.uint8)
    for bit in range(BITMAP_BITS):
        flags[:, bit] = content >> np.uint8(bit) & np.uint8(1)
    found = np.flatnonzero(flags.view(np.bool_)).astype(np.uint64)
    if content.max() >> BITMAP_BITS or found.size != count or int(found[-1]) >= stop - start:
        raise ValueError("a bitmap has another number of positions, or bits past its end")
    return found + np.uint64(start)
