"""Texts as token numbers: white space, words, characters, bytes, or a file of the package `tokenizers`."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deltagram.data.imbalance import I64
from deltagram.errors import ExtraError, SettingError

U32 = NDArray[np.uint32]
END: Final = "<|endoftext|>"
_BYTES: Final = 256


class Tokenizer(Protocol):
    """Turns texts into token numbers; a number's name tells it from all others."""

    @property
    def joined_by(self) -> str:
        """What stands between the names of a context's tokens."""

    @property
    def by_name(self) -> bool:
        """Whether numbers come in the order of first use, so that names are what orders tokens."""

    @property
    def names(self) -> Sequence[str]:
        """Name of each token number."""

    def encode(self, texts: Sequence[str]) -> tuple[U32, I64]:
        """Token numbers of all texts one after another, and how many each text has."""

    def end(self) -> int:
        """Number of the token that ends a document; SettingError if there is none."""

    def know(self, names: Sequence[str]) -> None:
        """Number words as an earlier run did, where numbers come in the order of first use."""


class _Index(dict[str, int]):
    """Numbers of words in the order in which they are first asked for."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


@dataclass(frozen=True)
class Split:
    """Words as `split` gives them, numbered in the order of first use."""

    split: Callable[[str], Iterable[str]]
    joined_by: str = " "
    by_name: bool = True
    index: _Index = field(default_factory=_Index)

    @property
    def names(self) -> Sequence[str]:
        """Each word."""
        return list(self.index)

    def encode(self, texts: Sequence[str]) -> tuple[U32, I64]:
        """Token numbers of all texts, and how many each has."""
        parts = [list(self.split(text)) for text in texts]
        lengths = np.array([len(part) for part in parts], np.int64)
        numbers = map(self.index.__getitem__, chain.from_iterable(parts))
        return np.fromiter(numbers, np.uint32, int(lengths.sum())), lengths

    def end(self) -> int:
        """A word of its own (a text that holds it would hold the end of a document)."""
        return self.index[END]

    def know(self, names: Sequence[str]) -> None:
        """Begin with these words."""
        for name in names:
            self.index[name]


@dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes; the end of a document is one number more."""

    joined_by: str = ""
    by_name: bool = False

    @property
    def names(self) -> Sequence[str]:
        """Printing ASCII as it is, any other byte as <0xNN>."""
        return [*(chr(b) if 32 < b < 127 else f"<0x{b:02X}>" for b in range(_BYTES)), END]

    def encode(self, texts: Sequence[str]) -> tuple[U32, I64]:
        """Bytes of all texts, and how many each has."""
        parts = [text.encode() for text in texts]
        return np.frombuffer(b"".join(parts), np.uint8).astype(np.uint32), np.array([*map(len, parts)], np.int64)

    def end(self) -> int:
        """One past the bytes."""
        return _BYTES

    def know(self, names: Sequence[str]) -> None:
        """Bytes have their numbers."""


@dataclass(frozen=True)
class Numbered:
    """A tokenizer with a fixed vocabulary: `ids` of texts, names, and the number of its end of text if it has one."""

    ids: Callable[[Sequence[str]], Sequence[Sequence[int]]]
    names: Sequence[str]
    ending: int | None
    source: str
    joined_by: str = " "
    by_name: bool = False

    def encode(self, texts: Sequence[str]) -> tuple[U32, I64]:
        """Token numbers of all texts, and how many each has."""
        rows = self.ids(texts)
        lengths = np.array([len(row) for row in rows], np.int64)
        return np.fromiter(chain.from_iterable(rows), np.uint32, int(lengths.sum())), lengths

    def end(self) -> int:
        """The tokenizer's end of text."""
        if self.ending is None:
            raise SettingError("end", f"{self.source} has no token that ends a text", fix="leave --end out")
        return self.ending

    def know(self, names: Sequence[str]) -> None:
        """The vocabulary is fixed."""


SPLITS: Final[Mapping[str, tuple[Callable[[str], Iterable[str]], str]]] = {
    "whitespace": (str.split, " "),
    "word": (re.compile(r"\w+|[^\w\s]").findall, " "),
    "char": (list, ""),
}
NAMES: Final = (*SPLITS, "byte")


def plain_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of this name, one of `NAMES`.

    >>> words, lengths = plain_tokenizer("word").encode(["To be, or", "not to be"])
    >>> words.tolist(), lengths.tolist()
    ([0, 1, 2, 3, 4, 5, 1], [4, 3])
    """
    if name == "byte":
        return Bytes()
    split, joined_by = SPLITS[name]
    return Split(split, joined_by=joined_by)


def train_bpe(texts: Iterable[str], size: int, out: Path) -> None:
    """Train byte-level BPE with `size` tokens on texts and write it as a tokenizer.json of `tokenizers`.

    Raises SettingError for fewer tokens than bytes and the end of text need, ExtraError without `tokenizers`.
    """
    tokenizers = _tokenizers()
    if size <= _BYTES:
        raise SettingError("tokenizer", f"bpe:{size} is too small", expected=f"{_BYTES + 1} or more: bytes and {END}")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(alphabet), special_tokens=[END], show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.save(str(out))


def tokenizer_file(path: Path) -> Tokenizer:
    """A tokenizer.json as `tokenizers` reads it, without its special tokens around texts. SettingError, ExtraError."""
    tokenizers = _tokenizers()
    try:
        made = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
    except Exception as fault:  # noqa: BLE001 - tokenizers raises nothing narrower
        reason = " ".join(str(fault).split())[:200]
        raise SettingError(str(path), f"is no tokenizer ({reason})", expected="a tokenizer.json") from None
    made.no_truncation()
    made.no_padding()

    def ids(texts: Sequence[str]) -> list[Any]:
        return [found.ids for found in made.encode_batch_fast(list(texts), add_special_tokens=False)]

    vocabulary = made.get_vocab(with_added_tokens=True)
    return Numbered(ids, named(vocabulary), vocabulary.get(END), str(path))


def named(vocabulary: Mapping[str, int]) -> list[str]:
    """Name of each token number up to the largest; one that is not used is called by its number."""
    names = [f"<{number}>" for number in range(max(vocabulary.values(), default=-1) + 1)]
    for name, number in vocabulary.items():
        names[number] = name
    return names


def _tokenizers() -> Any:
    try:
        import tokenizers  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as fault:
        found = f"package {fault.name} is not installed"
        raise ExtraError("byte-pair encoding", found, fix="pip install 'deltagram[corpus]'") from None
    return tokenizers
