"""Philox4x32-10 against the vectors published with Random123 (kat_vectors, "philox4x32 10"), and keys."""

import numpy as np
import pytest
from blake3 import blake3

from deltagram import seeds

VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_published_vectors(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    c0, c1, c2, c3 = (np.array([word], np.uint32) for word in counter)
    assert tuple(int(lane[0]) for lane in seeds.philox((c0, c1, c2, c3), key)) == expected


def test_words_follow_the_written_order() -> None:
    """Word i is lane i mod 4 of counter (low, high, stream, 0), also where the block number passes 2^32."""
    key = 0x299F31D0A4093822
    for first in (0, 3, 4 * (1 << 32) - 2):
        words = seeds.words(key, first, first + 7, stream=5)
        for offset, word in enumerate(words.tolist()):
            block, lane = divmod(first + offset, 4)
            counter = [np.array([c], np.uint32) for c in (block & 0xFFFFFFFF, block >> 32, 5, 0)]
            assert word == int(seeds.philox(tuple(counter), (0xA4093822, 0x299F31D0))[lane][0])


def test_empty_range() -> None:
    assert seeds.words(1, 9, 9).size == 0


def test_key_is_the_written_hash() -> None:
    expected = blake3((-5).to_bytes(8, "little", signed=True) + "ä.weight".encode()).digest()[:8]
    assert seeds.key(-5, "ä.weight") == int.from_bytes(expected, "little")
    with pytest.raises(OverflowError, match="not an int64"):
        seeds.key(1 << 63, "w")
