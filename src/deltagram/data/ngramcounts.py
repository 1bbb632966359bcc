"""Exact counts of (context, next token), out of core: each block sorted and counted, then all merged range by range."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deltagram.data.contexts import U64, Packing
from deltagram.data.imbalance import I64
from deltagram.data.words import U32

_ROWS: Final = 1 << 20  # that are read at once where order does not matter
_SAMPLE: Final = 1 << 10  # one of so many rows tells where to cut
_HELD: Final = 48  # bytes that a number of a row takes while rows are merged: read, sorted, added up


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """How often (`count`) each `following` token comes after each context, given by its `words`; sorted, no pair twice.

    Of a part of the pairs, a context may go on in the next part.
    """

    words: tuple[U64, ...]
    following: U32
    count: I64


@dataclass(frozen=True, kw_only=True, eq=False)
class Counter:
    """Counts contexts of one packing in about `memory` bytes; files lie in `folder`, one a block.

    A row is a pair of context and next token: numbers that order it, and its count. Where 64 bits hold both they are
    one number, which is sorted fastest; else they are the words of the context and the token.
    """

    folder: Path
    packing: Packing
    memory: int

    @property
    def _one(self) -> bool:
        """Whether a pair is one number."""
        return (self.packing.length + 1) * self.packing.bits <= 64

    def _path(self, block: int) -> Path:
        return self.folder / f"counts-{self.packing.length}-{block:06}.npy"

    def _paths(self) -> list[Path]:
        start = f"counts-{self.packing.length}-"
        return sorted(path for path in self.folder.iterdir() if path.name.startswith(start) and path.suffix == ".npy")

    def has(self, block: int) -> bool:
        """Whether a block was counted before."""
        return self._path(block).is_file()

    def count(self, block: int, words: Sequence[U64], following: U32) -> None:
        """Count a block's samples into a file of its own, whole or not at all."""
        columns = [*words, following.astype(np.uint64)]
        if self._one:
            columns = [words[0] << np.uint64(self.packing.bits) | columns[-1]]
        rows = _added(columns, np.ones(len(following), np.uint64))
        new = self.folder / "counts.new"
        with new.open("wb") as file:
            np.save(file, rows)
        new.replace(self._path(block))

    def following(self, symbols: int) -> I64:
        """How often each token number comes next."""
        found = np.zeros(symbols, np.int64)
        for path in self._paths():
            rows = np.load(path, mmap_mode="r")
            for start in range(0, rows.shape[1], _ROWS):
                part = self._counts(np.array(rows[:, start : start + _ROWS]))
                np.add.at(found, part.following, part.count)
        return found

    def merged(self) -> Iterator[Counts]:
        """All counts in the order of contexts, then of next tokens, in parts that the memory holds."""
        paths = self._paths()
        samples = [np.array(np.load(path, mmap_mode="r")[0, ::_SAMPLE]) for path in paths]
        several = np.sort(np.concatenate([np.empty(0, np.uint64), *samples]))
        many = len(several) * _SAMPLE * (len(self.packing.parts) + 2) * _HELD // self.memory + 1
        cuts = np.unique(several[np.linspace(0, len(several), many + 1).astype(np.int64)[1:-1]])
        bounds = []
        for path in paths:  # one open at a time: there may be thousands
            first = np.load(path, mmap_mode="r")[0]
            bounds.append([0, *np.searchsorted(first, cuts).tolist(), len(first)])
        for part in range(len(cuts) + 1):
            spans = [
                np.array(np.load(path, mmap_mode="r")[:, bound[part] : bound[part + 1]])
                for path, bound in zip(paths, bounds, strict=True)
                if bound[part] < bound[part + 1]
            ]
            if spans:
                *columns, count = np.concatenate(spans, axis=1)
                del spans
                yield self._counts(_added(columns, count))

    def _counts(self, rows: U64) -> Counts:
        """Rows of a file as what they stand for."""
        count = rows[-1].astype(np.int64)
        if not self._one:
            return Counts(words=tuple(rows[:-2]), following=rows[-2].astype(np.uint32), count=count)
        bits = np.uint64(self.packing.bits)
        following = (rows[0] & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.uint32)
        return Counts(words=(rows[0] >> bits,), following=following, count=count)


def _added(columns: Sequence[U64], count: U64) -> NDArray[np.uint64]:
    """Rows in order, each once, with what its counts add up to: (number, row), the count last."""
    if len(columns) == 1 and (count == 1).all():
        ordered, counts = [np.sort(columns[0])], count
    else:
        order = np.argsort(columns[0], kind="stable") if len(columns) == 1 else np.lexsort(columns[::-1])
        ordered, counts = [column[order] for column in columns], count[order]
    new = np.ones(len(count), np.bool_)
    new[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in ordered])
    starts = np.flatnonzero(new)
    total = np.add.reduceat(counts, starts) if len(starts) else counts
    return np.stack([*(column[starts] for column in ordered), total])
