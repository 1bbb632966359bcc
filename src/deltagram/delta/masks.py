"""Masks: which entries of a tensor a delta keeps. Any range of any mask decodes alone.

A mask over `size` entries keeps `keep` of them; kept entry k stands at `positions(k, k + 1)[0]`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from blake3 import blake3

from deltagram.arrays import U64
from deltagram.delta import kernels

BLOCK = 1 << 16  # kept entries (or, for Bernoulli counts, tensor entries) a block
STRATIFIED_MOST = 1 / 8
WORDS = 1 << 32


class Mask(Protocol):
    """Ascending positions of the kept entries of a flat tensor."""

    @property
    def size(self) -> int:
        """Entries of the tensor."""

    @property
    def keep(self) -> int:
        """Entries kept."""

    def positions(self, first: int, last: int) -> U64:
        """Positions of kept entries `first` to `last - 1`."""

    def count_before(self, entry: int) -> int:
        """Number of kept entries at positions below `entry`."""


def walk(mask: Mask, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int, U64]]:
    """For adjoining entry ranges: start, stop, the index of the first entry kept there, and their positions."""
    first = -1
    for start, stop in spans:
        first = mask.count_before(start) if first < 0 else first
        last = mask.count_before(stop)
        yield start, stop, first, mask.positions(first, last)
        first = last


def blocks(mask: Mask) -> Iterator[tuple[int, U64]]:
    """All positions in blocks of `BLOCK` kept entries, each with the index of its first."""
    for first in range(0, mask.keep, BLOCK):
        yield first, mask.positions(first, min(first + BLOCK, mask.keep))


def check(mask: Mask) -> str:
    """First 8 bytes, in hex, of blake3 over all positions (uint64, little-endian)."""
    digest = blake3()
    for _, positions in blocks(mask):
        digest.update(positions.astype("<u8", copy=False).view(np.uint8).data)
    return digest.hexdigest(8)


@dataclass(frozen=True, kw_only=True)
class Stratified:
    """One random entry in each of `keep` almost equal strata: exact count, O(kept), nothing stored.

    With q = size div keep and r = size mod keep, stratum i starts at i q + (i r) div keep; its kept entry is
    start + ((word_i x length) >> 32), word_i being word i of the tensor's Philox stream.

    >>> Stratified(size=20, keep=2, key=7).positions(0, 2).tolist()
    [9, 17]
    """

    size: int
    keep: int
    key: int

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= self.size:
            raise ValueError(f"a stratified mask keeps 1 to {self.size} entries, not {self.keep}")
        if self.keep >= WORDS or self.size // self.keep + 1 >= WORDS:
            raise ValueError("a stratified mask needs fewer than 2^32 kept entries and strata below 2^32 entries")

    def positions(self, first: int, last: int) -> U64:
        """Positions of kept entries `first` to `last - 1`."""
        return kernels.stratified(self.size, self.keep, self.key, first, last)

    def _start(self, stratum: int) -> int:
        return stratum * (self.size // self.keep) + stratum * (self.size % self.keep) // self.keep

    def count_before(self, entry: int) -> int:
        """Number of kept entries at positions below `entry`."""
        if entry >= self.size:
            return self.keep
        stratum = min(self.keep - 1, entry * self.keep // self.size)
        while self._start(stratum) > entry:
            stratum -= 1
        while stratum + 1 < self.keep and self._start(stratum + 1) <= entry:
            stratum += 1
        return stratum + int(int(self.positions(stratum, stratum + 1)[0]) < entry)


@dataclass(frozen=True, kw_only=True)
class Bernoulli:
    """Entry j is kept iff word j of the tensor's Philox stream is below `threshold`: the mask of DARE.

    `counts` holds how many entries each block of 65,536 keeps. Yu et al., "Language Models are Super Mario"
    (ICML 2024), with 1 - p = threshold / 2^32.
    """

    size: int
    key: int
    threshold: int
    counts: tuple[int, ...]
    _before: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= WORDS:
            raise ValueError(f"a Bernoulli threshold lies in 0 to 2^32, not {self.threshold}")
        if len(self.counts) != -(-self.size // BLOCK):
            raise ValueError("a Bernoulli mask needs one count for each 65,536 entries")
        before = np.concatenate([[0], np.cumsum(np.array(self.counts, np.uint64))])
        object.__setattr__(self, "_before", tuple(int(b) for b in before))

    @classmethod
    def draw(cls, *, size: int, key: int, threshold: int) -> "Bernoulli":
        """The mask, with its counts computed (O(size))."""
        starts = range(0, size, BLOCK)
        counts = tuple(kernels.bernoulli_counts(threshold, key, s, min(s + BLOCK, size)) for s in starts)
        return cls(size=size, key=key, threshold=threshold, counts=counts)

    @property
    def keep(self) -> int:
        """Entries kept: the realised count."""
        return self._before[-1]

    def _block(self, block: int) -> U64:
        start = block * BLOCK
        stop = min(start + BLOCK, self.size)
        found = kernels.bernoulli_counts(self.threshold, self.key, start, stop)
        if found != self.counts[block]:
            raise ValueError(f"block {block} of the mask keeps {found} entries, its count says {self.counts[block]}")
        return kernels.bernoulli(self.threshold, self.key, start, stop, found)

    def positions(self, first: int, last: int) -> U64:
        """Positions of kept entries `first` to `last - 1`."""
        if last <= first:
            return np.empty(0, np.uint64)
        begin = int(np.searchsorted(self._before, first, side="right")) - 1
        end = int(np.searchsorted(self._before, last, side="left"))
        joined = np.concatenate([self._block(block) for block in range(begin, end)])
        return joined[first - self._before[begin] : last - self._before[begin]]

    def count_before(self, entry: int) -> int:
        """Number of kept entries at positions below `entry`."""
        if entry >= self.size:
            return self.keep
        block = entry // BLOCK
        return self._before[block] + kernels.bernoulli_counts(self.threshold, self.key, block * BLOCK, entry)
