"""Contexts of some tokens as sorted keys: what precedes each token of a stream, packed into 64-bit words, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltagram.data.imbalance import I64
from deltagram.data.words import U32

U64 = NDArray[np.uint64]
_WORD = 64


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Contexts of `length` numbers below `symbols` as words of 64 bits, each as many numbers as it holds.

    Words in order, and numbers in a word from its high end: contexts are ordered as their words are, and no two
    contexts have the same words, whatever the length.

    >>> Packing(length=5, symbols=50_257).words
    2
    """

    length: int
    symbols: int

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return max(1, (self.symbols - 1).bit_length())

    @property
    def parts(self) -> list[tuple[int, int]]:
        """First and last (excluded) position of the numbers in each word."""
        each = _WORD // self.bits
        return [(start, min(start + each, self.length)) for start in range(0, self.length, each)]

    @property
    def words(self) -> int:
        """Words of a context."""
        return len(self.parts)

    def packed(self, numbers: U32, at: I64) -> list[U64]:
        """Words of the contexts that end before the positions `at` in `numbers`, an array each."""
        found = []
        for start, stop in self.parts:
            word = np.zeros(len(at), np.uint64)
            for position in range(start, stop):
                word <<= np.uint64(self.bits)
                word |= numbers[at - self.length + position]
            found.append(word)
        return found

    def unpacked(self, words: Sequence[U64]) -> U32:
        """Numbers of contexts, (context, position)."""
        found = np.empty((len(words[0]), self.length), np.uint32)
        mask = np.uint64((1 << self.bits) - 1)
        for (start, stop), word in zip(self.parts, words, strict=True):
            for position in range(start, stop):
                found[:, position] = (word >> np.uint64(self.bits * (stop - 1 - position))) & mask
        return found


def samples(tokens: U32, ends: I64, *, first: int, length: int) -> I64:
    """Positions from `first` on at which a context of `length` tokens of the same document precedes a token.

    `ends` are the positions (below that of the last token) after which a document ends.

    >>> samples(np.arange(6, dtype=np.uint32), np.array([3]), first=0, length=2)
    array([2, 5])
    """
    begin = np.zeros(len(tokens), np.int64)
    begin[ends] = ends
    np.maximum.accumulate(begin, out=begin)
    at = np.arange(first, len(tokens))
    found: I64 = at[at - begin[first:] >= length]
    return found
