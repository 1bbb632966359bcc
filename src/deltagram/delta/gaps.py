"""Golomb coding of the gaps between ascending positions: the typed face of the kernels.

The code is Golomb's, "Run-length encodings" (IEEE Trans. Inf. Theory 12, 1966): a gap is cut into a
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

import numpy as np

from deltagram.arrays import U64
from deltagram.delta.backend import family

MAX_SIZE = 1 << 62

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
    return words.tobytes()[: -(-bits // 8)]


def golomb_decode(data: memoryview | bytes, *, divisor: int, start: int, stop: int, count: int) -> U64:
    """The `count` ascending positions, from `start` to `stop - 1`, that `data` is the bit stream of.

    Needs `1 <= divisor` and `start <= stop <= 2^62`; any bytes are safe. Raises ValueError for damage.
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
