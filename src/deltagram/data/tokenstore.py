"""Token numbers of a corpus on disk, with the ends of its documents: written once, resumable, read in blocks."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from deltagram.data.imbalance import I64
from deltagram.data.words import U32
from deltagram.errors import OutputError, SettingError

SYMBOLS: Final = 1 << 24  # token numbers from here on are no vocabulary
_STATE: Final = "state.json"
_TOKENS: Final = "tokens.u32"
_ENDS: Final = "ends.i64"
_NAMES: Final = "names.jsonl"


@dataclass(frozen=True, kw_only=True)
class TokenStore:
    """`tokens` in `documents` of a corpus as far as it was read; `made_from` is what they hold good for.

    `place` is where reading goes on, as its reader counts; `named` names of words are kept, in `name_bytes`.
    """

    folder: Path
    made_from: Mapping[str, Any]
    tokens: int = 0
    documents: int = 0
    place: int = 0
    named: int = 0
    name_bytes: int = 0
    complete: bool = False

    @classmethod
    def create(cls, folder: Path, made_from: Mapping[str, Any]) -> Self:
        """A new and empty one in an empty folder."""
        for name in (_TOKENS, _ENDS, _NAMES):
            (folder / name).write_bytes(b"")
        return cls(folder=folder, made_from=made_from)._saved()

    @classmethod
    def resume(cls, folder: Path, made_from: Mapping[str, Any]) -> Self:
        """The one that an interrupted run left. Raises SettingError if it was made from something else."""
        try:
            state = json.loads((folder / _STATE).read_text("utf-8"))
            found = cls(folder=folder, **state)
        except (OSError, ValueError, TypeError):
            raise SettingError(str(folder), "holds no interrupted run", fix="start again with --force") from None
        for name in sorted({*made_from, *found.made_from}):
            before, now = found.made_from.get(name), made_from.get(name)
            if before != now:
                told = f"was made with another {name} ({_short(before)}; now {_short(now)})"
                raise SettingError(str(folder), told, fix="give the same, or start again with --force")
        os.truncate(folder / _TOKENS, found.tokens * 4)
        os.truncate(folder / _ENDS, found.documents * 8)
        os.truncate(folder / _NAMES, found.name_bytes)
        return found

    @staticmethod
    def check(folder: Path) -> None:
        """Raise OutputError for a folder that is no store, and so must not be deleted."""
        if not (folder / _STATE).is_file() and any(folder.iterdir()):
            raise OutputError(str(folder), "exists and holds no counts", fix="move it, or choose another output")

    def append(self, tokens: U32, ends: I64, *, place: int, names: Sequence[str] = ()) -> Self:
        """With more tokens, after `ends` of which documents end; `names` are all so far, the new ones are written.

        Raises SettingError for a vocabulary without end.
        """
        largest = max(int(tokens.max(initial=0)), len(names) - 1)
        if largest >= SYMBOLS:
            fix = "use a tokenizer with a fixed vocabulary, such as bpe:32000"
            raise SettingError("tokens", f"reach number {largest:,}", expected=f"below {SYMBOLS:,}", fix=fix)
        with (self.folder / _TOKENS).open("ab") as file:
            tokens.astype("<u4", copy=False).tofile(file)
            os.fsync(file.fileno())
        with (self.folder / _ENDS).open("ab") as file:
            (self.tokens + ends).astype("<i8").tofile(file)
            os.fsync(file.fileno())
        line = json.dumps(names[self.named :]).encode() + b"\n" if len(names) > self.named else b""
        with (self.folder / _NAMES).open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        return replace(
            self, tokens=self.tokens + len(tokens), documents=self.documents + len(ends), place=place,
            named=max(self.named, len(names)), name_bytes=self.name_bytes + len(line),
        )._saved()  # fmt: skip

    def finished(self) -> Self:
        """Complete: nothing more is to be read."""
        return replace(self, complete=True)._saved()

    def names(self) -> list[str]:
        """Names of the words so far."""
        with (self.folder / _NAMES).open("rb") as file:
            return [name for line in file for name in json.loads(line)]

    def block(self, start: int, stop: int) -> tuple[U32, I64]:
        """Tokens from `start` to `stop`, and the ends of documents among them, both counted from `start`."""
        tokens = np.fromfile(self.folder / _TOKENS, "<u4", stop - start, offset=start * 4)
        ends = np.memmap(self.folder / _ENDS, "<i8", "r", shape=(self.documents,))
        low, high = np.searchsorted(ends, [start, stop])
        found: I64 = np.asarray(ends[low:high], np.int64) - start
        return tokens.astype(np.uint32, copy=False), found

    def used(self, block: int) -> I64:
        """How often each token number occurs."""
        found = np.zeros(0, np.int64)
        for start in range(0, self.tokens, block):
            tokens, _ = self.block(start, min(start + block, self.tokens))
            more = np.bincount(tokens, minlength=len(found))
            more[: len(found)] += found
            found = more
        return found

    def _saved(self) -> Self:
        """Itself, its state written whole or not at all."""
        state = {name: value for name, value in vars(self).items() if name != "folder"}
        path = self.folder / f"{_STATE}.new"
        path.write_text(json.dumps(state), encoding="utf-8")
        path.replace(self.folder / _STATE)
        return self


def _short(value: object) -> str:
    return str(value)[:60]
