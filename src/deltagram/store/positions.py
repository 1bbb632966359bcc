"""Positions of kept entries as data: the smallest of three codings, in blocks that decode alone.

The positions are cut into blocks of 2^16, the last one shorter. A block begins after the last position
of the one before (at 0) and ends after its own last position (the last one at `size`); its gaps are the
numbers of entries left out before each kept one. Each block is coded as

- `golomb`: Golomb-coded gaps (see `deltagram.delta.gaps`), with one divisor for the tensor;
- `gaps`: the gaps as byte planes, in as few bytes as hold the largest gap possible, zstd level 1; for
  positions that repeat a pattern;
- `bitmap`: one bit an entry, seven to a byte, zstd level 1, at most 2^19 entries a block; for keep rates
  from a quarter to a half, where no code of single gaps comes near the bound. With eight bits to a byte
  zstd's gain at 0.4 is below its own threshold of 1.6 %, and its Huffman table is twice as long.

The blob is a table of all blocks but the last (the entry after the last position as u64, the bytes as u32,
little-endian), then the blocks. Damage raises ValueError; the caller knows which tensor it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import zstandard

from deltagram.arrays import U64
from deltagram.delta.gaps import (
    BITMAP_BITS,
    MAX_SIZE,
    from_bitmap,
    from_planes,
    golomb_decode,
    golomb_divisor,
    golomb_encode,
    planes,
    to_bitmap,
    to_planes,
)

BLOCK: Final = 1 << 16
BITMAP_SPAN: Final = 8 * BLOCK  # a bitmap of more would hardly be the smallest, and could be a bomb
_TABLE = np.dtype([("end", "<u8"), ("bytes", "<u4")])


@dataclass(frozen=True, kw_only=True)
class _Block:
    """`count` positions, from `start` to `stop - 1`."""

    start: int
    stop: int
    count: int

    @property
    def span(self) -> int:
        """Entries that the block is about."""
        return self.stop - self.start

    def content(self, coding: str) -> int:
        """Bytes before compression, in a zstd coding."""
        if coding == "gaps":
            return self.count * planes(span=self.span, count=self.count)
        return -(-self.span // BITMAP_BITS)


class PositionEncoder:
    """Codes `keep` ascending positions below `size`, given piece by piece.

    Memory is one block and the coded sizes. Raises ValueError for positions that are not as announced.
    """

    def __init__(self, *, size: int, keep: int) -> None:
        _check_counts(size, keep)
        self._size = size
        self._keep = keep
        self._divisor = golomb_divisor(size, keep)
        self._zstd = zstandard.ZstdCompressor(level=1)
        self._coded: dict[str, list[bytes]] = {"golomb": [], "gaps": [], "bitmap": []}
        self._ends = [0]
        self._done = 0
        self._block = np.empty(min(BLOCK, keep), np.uint64)
        self._held = 0

    def add(self, positions: U64) -> None:
        """Take the next positions, any number of them."""
        if self._done + self._held + positions.size > self._keep:
            raise ValueError(f"more than {self._keep} positions")
        while positions.size:
            taken = positions[: self._block.size - self._held]
            self._block[self._held : self._held + taken.size] = taken
            self._held += taken.size
            positions = positions[taken.size :]
            if self._held == self._block.size:
                self._flush()

    def _flush(self) -> None:
        """Code the full block, and make room for the next."""
        held, self._held = self._block, 0
        self._done += held.size
        end = int(held[-1]) + 1
        block = _Block(start=self._ends[-1], stop=self._size if self._done == self._keep else end, count=held.size)
        gaps = held.copy()
        gaps[1:] -= held[:-1] + np.uint64(1)
        gaps[:1] -= np.uint64(block.start)
        if end > self._size or int(gaps.max()) > self._size:  # a descent wraps to a huge gap
            raise ValueError(f"positions do not ascend below {self._size}")
        self._coded["golomb"].append(golomb_encode(gaps, self._divisor))
        self._coded["gaps"].append(self._zstd.compress(to_planes(gaps, span=block.span)))
        if block.span > BITMAP_SPAN:
            self._coded.pop("bitmap", None)
        if "bitmap" in self._coded:
            self._coded["bitmap"].append(self._zstd.compress(to_bitmap(gaps, span=block.span)))
        self._ends.append(end)
        self._block = self._block[: self._keep - self._done]

    def finish(self) -> tuple[dict[str, int | str], bytes]:
        """What the manifest says of the coding, and the blob; all `keep` positions must have been added."""
        if self._done < self._keep:
            raise ValueError(f"{self._done + self._held} positions, not {self._keep}")
        coding = min(self._coded, key=lambda name: sum(map(len, self._coded[name])))
        blocks = self._coded[coding]
        table = np.empty(len(blocks) - 1, _TABLE)
        table["end"] = self._ends[1:-1]
        table["bytes"] = [len(block) for block in blocks[:-1]]
        manifest: dict[str, int | str] = {"coding": coding}
        if coding == "golomb":
            manifest["divisor"] = self._divisor
        return manifest, b"".join([table.tobytes(), *blocks])


class CodedPositions:
    """The positions in a blob of `PositionEncoder`; any range of them decodes alone, in any thread.

    It is a `deltagram.delta.masks.Mask`. `coding` is the encoder's manifest, with nothing else in it. What
    can be checked without decoding is checked at once. Raises ValueError for damage, whatever the bytes.
    """

    def __init__(self, blob: memoryview | bytes, *, size: int, keep: int, coding: Mapping[str, object]) -> None:
        _check_counts(size, keep)
        self._coding, self._divisor = _read_coding(coding, size)
        self._blob = memoryview(blob)
        self.size = size
        self.keep = keep
        table_bytes = (-(-keep // BLOCK) - 1) * _TABLE.itemsize
        if table_bytes >= len(self._blob):
            raise ValueError("block table is truncated")
        table = np.frombuffer(self._blob[:table_bytes], _TABLE)
        self._ends = np.append(table["end"], np.uint64(size))
        offsets = np.cumsum(np.append(np.int64(table_bytes), table["bytes"]))
        self._offsets: list[int] = [*offsets.tolist(), len(self._blob)]
        self._cache: tuple[int, U64] | None = None
        self._check_table()

    def _check_table(self) -> None:
        least = self.keep * self._divisor.bit_length()  # bits
        if self._offsets[-2] >= len(self._blob) or 8 * len(self._blob) < least:
            raise ValueError("coded positions are truncated")
        room = np.diff(self._ends.astype(np.int64), prepend=0)
        last = self.keep - (self._ends.size - 1) * BLOCK
        if (self._ends > self.size).any() or (room[:-1] < BLOCK).any() or room[-1] < last:
            raise ValueError("block table says positions that do not ascend")
        if self._coding != "golomb":
            for index in range(self._ends.size):
                block, data = self._at(index)
                _check_frame(data, block, self._coding)

    def _at(self, index: int) -> tuple[_Block, memoryview]:
        """Block `index` and its bytes."""
        start = int(self._ends[index - 1]) if index else 0
        block = _Block(start=start, stop=int(self._ends[index]), count=min(BLOCK, self.keep - index * BLOCK))
        return block, self._blob[self._offsets[index] : self._offsets[index + 1]]

    def positions(self, first: int, last: int) -> U64:
        """Positions of kept entries `first` to `last - 1`; `0 <= first <= last <= keep`, else IndexError."""
        if not 0 <= first <= last <= self.keep:
            raise IndexError(f"kept entries {first} to {last} of {self.keep}")
        out = np.empty(last - first, np.uint64)
        for index in range(first // BLOCK, -(-last // BLOCK) if last > first else 0):
            begin = index * BLOCK
            part = self._decoded(index)[max(first - begin, 0) : last - begin]
            at = max(begin, first) - first
            out[at : at + part.size] = part
        return out

    def count_before(self, entry: int) -> int:
        """How many of the positions are below `entry`."""
        if entry >= self.size:
            return self.keep
        index = int(np.searchsorted(self._ends, np.uint64(max(entry, 0)), side="right"))
        if entry <= (int(self._ends[index - 1]) if index else 0):
            return index * BLOCK
        return index * BLOCK + int(np.searchsorted(self._decoded(index), np.uint64(entry)))

    def _decoded(self, index: int) -> U64:
        """The positions of block `index`; the one decoded last is kept, for its neighbours' sake."""
        cache = self._cache  # one read: another thread may replace it
        if cache is not None and cache[0] == index:
            return cache[1]
        block, data = self._at(index)
        found = _decode(data, block, coding=self._coding, divisor=self._divisor)
        if index < self._ends.size - 1 and int(found[-1]) + 1 != block.stop:
            raise ValueError("a block of positions does not end where its table says")
        self._cache = index, found
        return found


def _check_counts(size: int, keep: int) -> None:
    if not 1 <= keep <= size <= MAX_SIZE:
        raise ValueError(f"cannot keep {keep} of {size} entries")


def _read_coding(coding: Mapping[str, object], size: int) -> tuple[str, int]:
    """Name and divisor (0 if it has none) of a coding."""
    match dict(coding):
        case {"coding": "golomb", "divisor": int(divisor)} if len(coding) == 2 and 1 <= divisor <= size:
            if divisor is not True:  # bool is an int
                return "golomb", divisor
        case {"coding": "gaps" | "bitmap" as name} if len(coding) == 1:
            return name, 0
    raise ValueError(f"unknown coding of {size} entries' positions: {dict(coding)}")


def _check_frame(frame: memoryview, block: _Block, coding: str) -> None:
    """Refuse a zstd frame that would decompress to another size than the counts demand."""
    if coding == "bitmap" and block.span > BITMAP_SPAN:
        raise ValueError("a bitmap of positions spans too many entries")
    try:
        declared = zstandard.get_frame_parameters(frame[:32])
    except zstandard.ZstdError as fault:
        raise ValueError("positions are not a zstd frame") from fault
    if declared.content_size != block.content(coding) or declared.dict_id:
        raise ValueError("a zstd frame of positions declares a wrong size")


def _decode(data: memoryview, block: _Block, *, coding: str, divisor: int) -> U64:
    """The positions of one block, strictly ascending, in its bounds, as many as it counts."""
    if coding == "golomb":
        return golomb_decode(data, divisor=divisor, start=block.start, stop=block.stop, count=block.count)
    try:
        raw = zstandard.ZstdDecompressor().decompress(data, block.content(coding), allow_extra_data=False)
    except zstandard.ZstdError as fault:
        raise ValueError("compressed positions are damaged") from fault
    read = from_planes if coding == "gaps" else from_bitmap
    return read(np.frombuffer(raw, np.uint8), start=block.start, stop=block.stop, count=block.count)
