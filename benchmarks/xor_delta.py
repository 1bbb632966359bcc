"""A peer of `prune --method exact`: XOR of bit patterns, byte planes, zstd in blocks of 65,536 at level 3."""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray

from deltagram.store.checkpoint import Checkpoint
from deltagram.threads import default_threads, ordered

Words = NDArray[np.uint16]
Took = Mapping[str, float]
BLOCK, LEVEL = 1 << 16, 3


def blocks(base: Checkpoint, tuned: Checkpoint) -> Iterator[tuple[Words, Words]]:
    """Pairs of bit patterns, a block at a time, tensor by tensor."""
    for name, spec in tuned.specs.items():
        for start in range(0, spec.size, BLOCK):
            stop = min(start + BLOCK, spec.size)
            yield base.bits(name, start, stop), tuned.bits(name, start, stop)


def xor_pack(pair: tuple[Words, Words]) -> list[bytes]:
    """XOR, low and high bytes apart, each a zstd frame or raw."""
    changed = (pair[0] ^ pair[1]).view(np.uint8).reshape(-1, 2)
    planes = [np.ascontiguousarray(changed[:, plane]).tobytes() for plane in (0, 1)]
    coder = zstandard.ZstdCompressor(level=LEVEL)
    return [min((coder.compress(plane), plane), key=len) for plane in planes]


def xor_unpack(base: Words, packed: list[bytes]) -> Words:
    """The inverse."""
    planes = [
        np.frombuffer(data if len(data) == base.size else zstandard.ZstdDecompressor().decompress(data), np.uint8)
        for data in packed
    ]
    restored: Words = base ^ np.stack(planes, axis=1).reshape(-1).view(np.uint16)
    return restored


def write_xor(base: Checkpoint, tuned: Checkpoint, out: Path) -> Took:
    """The peer's file, fsynced, by as many threads; the sizes of a block take 8 bytes."""
    start = time.perf_counter()
    with out.open("wb") as file:
        for planes in ordered(xor_pack, blocks(base, tuned), threads=default_threads()):
            file.write(np.array([len(plane) for plane in planes], "<u4").tobytes() + b"".join(planes))
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": out.stat().st_size, "pack": time.perf_counter() - start}


def check_xor(base: Checkpoint, tuned: Checkpoint) -> None:
    """Exit unless every block comes back."""

    def same(pair: tuple[Words, Words]) -> bool:
        return np.array_equal(xor_unpack(pair[0], xor_pack(pair)), pair[1])

    if not all(ordered(same, blocks(base, tuned), threads=default_threads())):
        sys.exit("XOR, planes, zstd is not lossless here")
