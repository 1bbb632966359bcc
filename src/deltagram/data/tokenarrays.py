"""Token numbers in files (.npy, or .bin without a header) as blocks of documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deltagram.data.imbalance import I64
from deltagram.data.tokenstore import SYMBOLS
from deltagram.data.words import U32
from deltagram.errors import SettingError

DTYPES: Final = ("uint16", "uint32")


@dataclass(frozen=True, kw_only=True)
class TokenArrays:
    """Files of token numbers below `vocabulary`; each file, and within it what `separator` divides, is a document.

    `dtype` is of .bin files. With `end` the separator is kept as the last token of its document.
    """

    files: tuple[Path, ...]
    dtype: str = "uint16"
    vocabulary: int | None = None
    separator: int | None = None
    end: bool = False

    def blocks(self, size: int, *, place: int = 0) -> Iterator[tuple[U32, I64, int]]:
        """Tokens, ends of documents among them, and how many numbers were read so far; from `place` on.

        Raises SettingError for a file that holds no token numbers, and for a number outside the vocabulary.
        """
        before = 0
        for path in self.files:
            held = self._opened(path)
            for start in range(max(0, place - before), len(held), size):
                stop = min(start + size, len(held))
                tokens, ends = self._divided(self._checked(path, np.asarray(held[start:stop]), start))
                if stop == len(held) and (not len(ends) or ends[-1] < len(tokens)):
                    ends = np.append(ends, len(tokens))
                yield tokens, ends, before + stop
            before += len(held)

    def total(self) -> int:
        """Numbers in all files."""
        return sum(len(self._opened(path)) for path in self.files)

    def _opened(self, path: Path) -> NDArray[Any]:
        if path.suffix.lower() == ".bin":
            width = np.dtype(self.dtype).itemsize
            if path.stat().st_size % width:
                found = f"has {path.stat().st_size:,} bytes"
                raise SettingError(str(path), found, expected=f"a multiple of {width}, as {self.dtype} has")
            empty = not path.stat().st_size
            return np.zeros(0, np.uint16) if empty else np.memmap(path, np.dtype(self.dtype).newbyteorder("<"), "r")
        try:
            held: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as fault:
            reason = " ".join(str(fault).split())[:120]
            raise SettingError(str(path), f"is no .npy array ({reason})", fix="write it with numpy.save") from None
        if held.ndim != 1 or held.dtype.kind not in "iu":
            found = f"holds {held.dtype} of shape {held.shape}"
            raise SettingError(str(path), found, expected="token numbers in one dimension")
        return held

    def _checked(self, path: Path, tokens: NDArray[Any], start: int) -> U32:
        """As they are, unless one is outside the vocabulary."""
        most = SYMBOLS if self.vocabulary is None else self.vocabulary
        wrong = (tokens < 0) | (tokens >= most)
        if wrong.any():
            where = int(wrong.argmax())
            told = f"is token {int(tokens[where]):,}, outside the vocabulary"
            fix = "check --vocabulary, the tokenizer, and for .bin --dtype"
            raise SettingError(f"{path}, position {start + where:,}", told, expected=f"0 to {most - 1:,}", fix=fix)
        return tokens.astype(np.uint32)

    def _divided(self, tokens: U32) -> tuple[U32, I64]:
        """Tokens without separators (with `end`: with them), and where documents end."""
        if self.separator is None:
            return tokens, np.zeros(0, np.int64)
        at = np.flatnonzero(tokens == self.separator)
        if self.end:
            return tokens, at + 1
        return np.delete(tokens, at), at - np.arange(len(at))
