"""Random words from (seed, tensor name, index): no order, thread, shard or machine can change them.

The generator is Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3" (SC 2011), with the published constants; the tests hold it to the vectors published with it.
"""

import struct

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

U32 = NDArray[np.uint32]

MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
MASK_STREAM = 0


def key(seed: int, name: str) -> int:
    """The 64-bit key of a tensor: first 8 bytes, little-endian, of blake3(seed as int64 LE || UTF-8 name).

    Raises OverflowError for a seed outside the int64 range.

    >>> hex(key(0, "encoder.layer.0.attention.self.query.weight"))
    '0x5b30e911b663b9a2'
    """
    try:
        packed = struct.pack("<q", seed)
    except struct.error:
        raise OverflowError(f"seed {seed} is not an int64") from None
    return int.from_bytes(blake3(packed + name.encode()).digest(8), "little")


def philox(counter: tuple[U32, U32, U32, U32], key_words: tuple[int, int]) -> tuple[U32, U32, U32, U32]:
    """Philox4x32-10 of many counters at once: four counter words in, four random words out."""
    c0, c1, c2, c3 = (word.astype(np.uint64) for word in counter)
    k0, k1 = key_words
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    m0, m1 = np.uint64(MULTIPLIER[0]), np.uint64(MULTIPLIER[1])
    for _ in range(ROUNDS):
        p0, p1 = m0 * c0, m1 * c2
        c0, c1, c2, c3 = (
            (p1 >> shift) ^ c1 ^ np.uint64(k0),
            p1 & low,
            (p0 >> shift) ^ c3 ^ np.uint64(k1),
            p0 & low,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return c0.astype(np.uint32), c1.astype(np.uint32), c2.astype(np.uint32), c3.astype(np.uint32)


def words(key: int, first: int, last: int, *, stream: int = MASK_STREAM) -> U32:
    """Words `first` to `last - 1` of the stream of `key`: word i is lane i mod 4 of counter i div 4.

    >>> words(key(0, "w"), 5, 8).tolist() == words(key(0, "w"), 0, 8)[5:].tolist()
    True
    """
    if last <= first:
        return np.empty(0, np.uint32)
    block: NDArray[np.uint64] = np.arange(first // 4, (last + 3) // 4, dtype=np.uint64)
    low = (block & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    high = (block >> np.uint64(32)).astype(np.uint32)
    counter = (low, high, np.full_like(low, stream), np.zeros_like(low))
    lanes = np.stack(philox(counter, (key & 0xFFFFFFFF, key >> 32)), axis=1).ravel()
    skip = first - first // 4 * 4
    return lanes[skip : skip + last - first]
