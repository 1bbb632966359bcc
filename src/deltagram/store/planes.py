"""Byte planes, each a zstd frame or raw, block by block: any block decodes alone, no size is believed.

A stream of `blocks` blocks with `planes` planes each is a table of `blocks * planes` uint32 sizes,
little-endian, then the planes in that order. A plane whose size equals its decoded size is raw; a smaller
one is a single zstd frame that declares exactly the decoded size.
"""

import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import zstandard

from deltagram.arrays import U8, Bits

IN_MEMORY = 16 << 20  # bytes of a stream held before it goes to a temporary file
PIECE = 4 << 20
# Planes are noise with a skewed histogram, or runs. Short chance matches only cost bytes there: match seven at the
# least, from a small table, and leave the rest to the entropy coder.
_ENTROPY = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, min_match=7, window_log=17, hash_log=6, chain_log=6, search_log=1,
    target_length=0, write_content_size=True, write_checksum=False, write_dict_id=False,
)  # fmt: skip


class Spool:
    """Bytes written once and read once; beyond 16 MiB they lie in a temporary file in `folder`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._held: list[bytes] = []
        self._file: IO[bytes] | None = None
        self.nbytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self.nbytes += memoryview(data).nbytes
        if self._file is None and self.nbytes > IN_MEMORY:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with the spool
            weakref.finalize(self, self._file.close)
            self._file.writelines(self._held)
            self._held = []
        if self._file is None:
            self._held.append(bytes(data))
        else:
            self._file.write(data)

    def pieces(self) -> Iterator[bytes]:
        """All bytes in order, in pieces."""
        yield from self._held
        if self._file is not None:
            self._file.seek(0)
            while piece := self._file.read(PIECE):
                yield piece


class PlaneWriter:
    """Packs blocks of planes into a spool and remembers their sizes."""

    def __init__(self, *, folder: Path | None = None) -> None:
        self._compressor = zstandard.ZstdCompressor(compression_params=_ENTROPY)
        self._spool = Spool(folder)
        self._sizes: list[int] = []

    @property
    def nbytes(self) -> int:
        """Size of the stream so far, table included."""
        return 4 * len(self._sizes) + self._spool.nbytes

    def add(self, planes: Sequence[U8]) -> None:
        """Append one block."""
        for plane in planes:
            packed = self._compressor.compress(plane.data) if plane.size else b""
            best: bytes | memoryview = packed if len(packed) < plane.size else plane.data
            self._sizes.append(len(best))
            self._spool.write(best)

    def pieces(self) -> Iterator[bytes]:
        """The stream: table, then planes."""
        yield np.array(self._sizes, "<u4").tobytes()
        yield from self._spool.pieces()


class PlaneReader:
    """Reads any block of a stream of known shape. Raises ValueError for any damage."""

    def __init__(self, stream: memoryview, *, blocks: int, planes: int) -> None:
        table = 4 * blocks * planes
        if table > len(stream):
            raise ValueError("the table of a packed stream is truncated")
        sizes = np.frombuffer(stream[:table], "<u4").astype(np.int64)
        self._ends = table + np.cumsum(sizes)
        self._starts = self._ends - sizes
        if (int(self._ends[-1]) if sizes.size else table) != len(stream):
            raise ValueError("the sizes of a packed stream do not add up to its length")
        self._stream = stream
        self.planes = planes

    def block(self, index: int, sizes: Sequence[int]) -> list[U8]:
        """The planes of one block, whose decoded `sizes` the caller knows."""
        found = []
        for plane, size in enumerate(sizes):
            at = index * self.planes + plane
            found.append(unpack(self._stream[int(self._starts[at]) : int(self._ends[at])], size))
        return found


def unpack(data: memoryview, size: int) -> U8:
    """Decode a plane of `size` bytes: raw if it has that size, else one zstd frame that declares it."""
    if len(data) == size:
        return np.frombuffer(data, np.uint8)
    if len(data) > size:
        raise ValueError(f"a plane of {size:,} bytes is stored in {len(data):,}")
    try:
        parameters = zstandard.get_frame_parameters(data)
        if parameters.content_size != size:
            raise ValueError(f"a packed plane declares {parameters.content_size:,} bytes, {size:,} are due")
        decoded = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as fault:
        raise ValueError(f"a packed plane is damaged ({fault})") from None
    if len(decoded) != size:
        raise ValueError("a packed plane ends early")
    return np.frombuffer(decoded, np.uint8)


def split(words: Bits) -> list[U8]:
    """The bytes of each word as planes, lowest byte first."""
    table = words.astype(words.dtype.newbyteorder("<"), copy=False).view(np.uint8).reshape(-1, words.itemsize)
    return [np.ascontiguousarray(table[:, plane]) for plane in range(words.itemsize)]


def join(planes: Sequence[U8], word: np.dtype[Any]) -> Bits:
    """The inverse of `split`."""
    table = np.empty((planes[0].size, len(planes)), np.uint8)
    for index, plane in enumerate(planes):
        table[:, index] = plane
    return table.ravel().view(word.newbyteorder("<")).astype(word, copy=False)
