"""Kept values to bytes and back, in blocks of 65,536; see docs/FORMAT.md for the layouts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, U8, U16, Bits, Spec, as_floats, rounded
from deltagram.delta import kernels
from deltagram.delta.masks import BLOCK
from deltagram.delta.values import (
    Codebook,
    Floats,
    Uniform,
    Values,
    decode_uniform,
    encode_codebook,
    encode_uniform,
)
from deltagram.store.planes import PlaneReader, PlaneWriter, Spool, join, split

_NUMPY = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
_DIVIDING = (1, 2, 4, 8)  # bits that fill bytes evenly: only these are bit fields before zstd


def _width(setting: Floats) -> int:
    return 4 if setting.dtype == "F32" else 2


def _to_words(values: F32, setting: Floats) -> Bits:
    """Bit patterns of the values rounded to the setting's type."""
    with np.errstate(over="ignore"):
        words: Bits = values.astype(_NUMPY[setting.dtype]).view(f"u{_width(setting)}")
    if not kernels.all_finite(words, setting.dtype):
        raise ValueError(f"a difference is too large for {setting.dtype}")
    return words


def _rotate(words: Bits, *, left: bool) -> Bits:
    """Move the sign bit to the bottom, so that the top byte is all exponent; or back."""
    top = words.dtype.type(8 * words.itemsize - 1)
    one = words.dtype.type(1)
    return (words << one) | (words >> top) if left else (words >> one) | (words << top)


class ValueWriter:
    """Takes a tensor's kept values in order and gives its `values` part.

    `book` is the fitted codebook where the setting is one; `restores` is the float dtype that values are rounded to
    when they are read, if they stand for themselves. Raises ValueError where a value cannot be held.
    """

    def __init__(
        self,
        setting: Values,
        *,
        pack: bool,
        folder: Path | None = None,
        book: F32 | None = None,
        restores: str | None = None,
    ) -> None:
        self._setting, self._pack, self._book, self._restores = setting, pack, book, restores
        self._waiting: list[F32] = []
        self._count = self._total = 0
        self._planes = PlaneWriter(folder=folder)
        self._scales, self._codes = Spool(folder), Spool(folder)

    def add(self, values: F32) -> None:
        """Append values."""
        self._waiting.append(values)
        self._count += values.size
        self._total += values.size
        if self._count >= BLOCK:
            joined = np.concatenate(self._waiting)
            whole = joined.size // BLOCK * BLOCK
            for first in range(0, whole, BLOCK):
                self._block(joined[first : first + BLOCK])
            self._waiting, self._count = [joined[whole:]], joined.size - whole

    def finish(self) -> tuple[Spec, Iterator[bytes]]:
        """The finished part: its spec, and its bytes in pieces."""
        if self._count:
            self._block(np.concatenate(self._waiting))
            self._waiting, self._count = [], 0
        if isinstance(self._setting, Floats) and not self._pack:
            spec = Spec(dtype=self._setting.dtype, shape=(self._total,))
        else:
            coded = self._planes.nbytes if self._pack else self._scales.nbytes + self._codes.nbytes
            book = 0 if self._book is None else 4 * self._book.size
            spec = Spec(dtype="U8", shape=(book + coded,))
        return spec, self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        if self._book is not None:
            yield self._book.astype("<f4").tobytes()
        if self._pack:
            yield from self._planes.pieces()
        else:
            yield from self._scales.pieces()
            yield from self._codes.pieces()

    def _block(self, values: F32) -> None:
        setting = self._setting
        if isinstance(setting, Floats):
            words = _to_words(values, setting)
            self._check_restored(as_floats(words, setting.dtype))
            if self._pack:
                self._planes.add(split(_rotate(words, left=True)))
            else:
                self._codes.write(words.astype(words.dtype.newbyteorder("<"), copy=False).data)
            return
        if isinstance(setting, Uniform):
            fields, scales = encode_uniform(values, setting)
            if not kernels.all_finite(scales, "BF16"):
                raise ValueError("a group of values is too large for a bfloat16 scale")
            if self._restores is not None:
                self._check_restored(decode_uniform(fields, scales, setting))
        else:
            if self._book is None:
                raise ValueError("a codebook setting needs its codebook")
            fields, scales = encode_codebook(values, self._book), np.empty(0, np.uint16)
            self._check_restored(self._book[fields])
        if self._pack:
            coded = kernels.pack_bits(fields, bits=setting.bits) if setting.bits in _DIVIDING else fields
            self._planes.add([*(split(scales) if isinstance(setting, Uniform) else []), coded])
        else:
            self._scales.write(scales.astype("<u2", copy=False).data)
            self._codes.write(kernels.pack_bits(fields, bits=setting.bits).data)

    def _check_restored(self, decoded: NDArray[Any]) -> None:
        """Raise ValueError if coding moved a value beyond the largest of the dtype it is read back as."""
        dtype = self._restores
        if dtype is not None and not kernels.all_finite(rounded(decoded, dtype), dtype):
            raise ValueError(f"a difference, once coded, is too large for {dtype}")


class ValueReader:
    """Any range of a tensor's kept values from its `values` part. Raises ValueError for any damage."""

    def __init__(self, part: memoryview, setting: Values, *, pack: bool, count: int) -> None:
        self._setting, self._pack, self.count = setting, pack, count
        self._last: tuple[int, F32] = (-1, np.empty(0, np.float32))
        self._book = np.empty(0, np.float32)
        if isinstance(setting, Codebook):
            table = 4 << setting.bits
            if len(part) < table:
                raise ValueError("the codebook is truncated")
            self._book = np.frombuffer(part[:table], "<f4").astype(np.float32, copy=False)
            part = part[table:]
            if not np.isfinite(self._book).all():
                raise ValueError("the codebook holds a value that is not finite")
        self._part = part
        if pack:
            planes = len(self._sizes(0))
            self._planes = PlaneReader(part, blocks=-(-count // BLOCK), planes=planes)
        elif len(part) != self._raw_bytes():
            raise ValueError(f"{count:,} values take {self._raw_bytes():,} bytes, the part has {len(part):,}")

    def _groups(self, count: int) -> int:
        return -(-count // self._setting.group) if isinstance(self._setting, Uniform) else 0

    def _raw_bytes(self) -> int:
        if isinstance(self._setting, Floats):
            return self.count * _width(self._setting)
        return 2 * self._groups(self.count) + -(-self.count * self._setting.bits // 8)

    def _sizes(self, count: int) -> list[int]:
        """Decoded bytes of each plane of a block of `count` values."""
        setting = self._setting
        if isinstance(setting, Floats):
            return [count] * _width(setting)
        codes = -(-count * setting.bits // 8) if setting.bits in _DIVIDING else count
        return [self._groups(count)] * (2 if isinstance(setting, Uniform) else 0) + [codes]

    def values(self, first: int, last: int) -> F32:
        """Values of kept entries `first` to `last - 1`, as float32."""
        if last <= first:
            return np.empty(0, np.float32)
        begin, end = first // BLOCK, -(-last // BLOCK)
        found = [self._cached(index) for index in range(begin, end)]
        joined = found[0] if len(found) == 1 else np.concatenate(found)
        return joined[first - begin * BLOCK : last - begin * BLOCK]

    def _cached(self, index: int) -> F32:
        known, values = self._last  # one read: another thread may replace it
        if known != index:
            values = self._block(index)
            self._last = index, values
        return values

    def symbols(self, index: int) -> list[U8]:
        """Block `index` as the byte symbols that packing codes: exponent and mantissa bytes, or scales and codes."""
        count = min(BLOCK, self.count - index * BLOCK)
        if isinstance(self._setting, Floats):
            return split(_rotate(self._words(index, count, self._setting), left=True))
        fields, scales = self._fields(index, count, self._setting)
        return [*(split(scales) if scales.size else []), fields]

    def _block(self, index: int) -> F32:
        count = min(BLOCK, self.count - index * BLOCK)
        setting = self._setting
        if isinstance(setting, Floats):
            return as_floats(self._words(index, count, setting), setting.dtype).astype(np.float32)
        fields, scales = self._fields(index, count, setting)
        if isinstance(setting, Codebook):
            if fields.size and int(fields.max()) >= self._book.size:
                raise ValueError("a codebook index is out of range")
            return self._book[fields]
        if not kernels.all_finite(scales, "BF16"):
            raise ValueError("a scale is not finite")
        return decode_uniform(fields, scales, setting)

    def _fields(self, index: int, count: int, setting: Uniform | Codebook) -> tuple[U8, U16]:
        """The codes of a block and its group scales (none for a codebook)."""
        bits, groups = setting.bits, self._groups(count)
        if self._pack:
            planes = self._planes.block(index, self._sizes(count))
            scales: U16 = join(planes[:2], np.dtype(np.uint16)) if groups else np.empty(0, np.uint16)
            packed, in_fields = planes[-1], bits in _DIVIDING
        else:
            scales = np.frombuffer(self._part, "<u2", groups, 2 * self._groups(index * BLOCK)).astype(np.uint16)
            at = 2 * self._groups(self.count) + index * BLOCK * bits // 8
            packed, in_fields = np.frombuffer(self._part, np.uint8, -(-count * bits // 8), at), True
        return kernels.unpack_bits(packed, bits=bits, count=count) if in_fields else packed, scales

    def _words(self, index: int, count: int, setting: Floats) -> Bits:
        """The bit patterns of a block of floats, all finite."""
        word = np.dtype(f"u{_width(setting)}")
        if self._pack:
            words = _rotate(join(self._planes.block(index, self._sizes(count)), word), left=False)
        else:
            at = index * BLOCK * word.itemsize
            words = np.frombuffer(self._part, word.newbyteorder("<"), count, at).astype(word)
        if not kernels.all_finite(words, setting.dtype):
            raise ValueError("a value is not finite")
        return words
