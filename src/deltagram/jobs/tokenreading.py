"""How `tokens` reads a corpus: checked settings, the tokenizer they name, and the store of tokens it fills."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deltagram.data.corpus import Corpus
from deltagram.data.tokenarrays import DTYPES, TokenArrays
from deltagram.data.tokenise import store_arrays, store_texts
from deltagram.data.tokenstore import TokenStore
from deltagram.data.words import NAMES, Tokenizer, plain_tokenizer, tokenizer_file, train_bpe
from deltagram.errors import DeltagramError, OutputError, SettingError
from deltagram.progress import Progress
from deltagram.training.huggingface import libraries, text_tokenizer

_BPE: Final = "bpe:"
LONGEST: Final = 1024  # tokens of a context
DOCUMENTS: Final = ("line", "file")
TOKENIZER: Final = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What turns the files of a corpus into tokens. Raises SettingError for settings that do not go together."""

    corpus: Corpus
    tokenizer: str | None
    lengths: tuple[int, ...]
    documents: str
    across: bool
    end: bool
    lower: bool
    text: str
    dtype: str
    separator: int | None
    vocabulary: int | None
    block: int

    def __post_init__(self) -> None:
        if (
            not self.lengths
            or min(self.lengths) < 1
            or max(self.lengths) > LONGEST
            or len(set(self.lengths)) < len(self.lengths)
        ):
            found = f"are {', '.join(map(str, self.lengths)) or 'not given'}"
            raise SettingError(
                "context lengths", found, expected=f"different numbers from 1 to {LONGEST}, such as 1,2,3"
            )
        for name, value, known in (("documents", self.documents, DOCUMENTS), ("dtype", self.dtype, DTYPES)):
            if value not in known:
                raise SettingError(name, f"{value!r} is unknown", expected=" or ".join(known))
        arrays = self.corpus.arrays
        named = (("separator", self.separator), ("vocabulary", self.vocabulary), ("lower", self.lower))
        wrong = [name for name, value in named if value not in (None, False) and arrays == (name == "lower")]
        if wrong:
            raise SettingError(wrong[0], f"does not go with {self.corpus.suffix}", fix=f"leave --{wrong[0]} out")
        if arrays and self.end and self.separator is None:
            raise SettingError("end", "needs the token that ends a document", fix="give its number with --separator")
        if arrays and self.trained:
            raise SettingError("tokenizer", f"{self.tokenizer} is trained on texts, not on token numbers")

    @property
    def trained(self) -> int | None:
        """Tokens of the byte-pair encoding that is to be trained, if one is."""
        name = self.tokenizer or ""
        if not name.startswith(_BPE):
            return None
        if not name[len(_BPE) :].isdecimal():
            raise SettingError("tokenizer", f"{name!r} has no size", expected="bpe:SIZE, such as bpe:8000")
        return int(name[len(_BPE) :])

    def made_from(self) -> dict[str, Any]:
        """What an interrupted run must agree on with the one that resumes it, as JSON has it."""
        told: dict[str, Any] = {
            name: value for name, value in vars(self).items() if name not in ("corpus", "lengths", "tokenizer")
        }
        own = self.tokenizer is None or self.tokenizer in NAMES or self.trained is not None
        path = Path(self.tokenizer or "")
        inside = [] if own else sorted(path.glob("*")) if path.is_dir() else [path] if path.is_file() else []
        files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in self.corpus.files]
        marks = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in inside]
        return {
            **told, "context lengths": list(self.lengths), "corpus": [list(file) for file in files],
            "tokenizer": [self.tokenizer, *marks],
        }  # fmt: skip

    def texts(self) -> Iterator[tuple[str, int]]:
        """Documents as the tokenizer gets them."""
        found = self.corpus.documents(column=self.text, whole=self.documents == "file")
        return ((text.lower(), at) for text, at in found) if self.lower else found

    def opened(self, folder: Path, progress: Progress) -> Tokenizer | None:
        """The tokenizer; one that is trained goes to `folder`, or is there. None for numbers without names."""
        name = self.tokenizer or ("" if self.corpus.arrays else "whitespace")
        if self.trained is not None:
            trained = folder / TOKENIZER
            if not trained.is_file():
                size = sum(self.corpus.sizes)
                train_bpe(_told(self.texts(), size, progress), self.trained, folder / f"{TOKENIZER}.new")
                (folder / f"{TOKENIZER}.new").replace(trained)
            return tokenizer_file(trained)
        if not name:
            return None
        if name in NAMES:
            return plain_tokenizer(name)
        path = Path(name)
        if path.is_dir() and not (path / "config.json").is_file() and (path / TOKENIZER).is_file():
            path = path / TOKENIZER
        if not path.exists():
            expected = f"{', '.join(NAMES)}, bpe:SIZE, a folder or a tokenizer.json"
            raise SettingError("tokenizer", f"{name!r} is unknown, and no path", expected=expected)
        if path.is_file():
            return tokenizer_file(path)
        with libraries() as (_, transformers):
            return text_tokenizer(transformers, path)

    def filled(self, store: TokenStore, tokenizer: Tokenizer | None, progress: Progress) -> TokenStore:
        """The store with all tokens of the corpus in it."""
        if store.complete:
            return store
        if not self.corpus.arrays:
            named = tokenizer or plain_tokenizer("whitespace")
            named.know(store.names())
            return store_texts(
                store, self.corpus, named, self.texts(), end=self.end, block=self.block, progress=progress
            )
        many = len(tokenizer.names) if tokenizer is not None else None
        if many is not None and self.vocabulary not in (None, many):
            found = f"is {self.vocabulary:,}, the tokenizer has {many:,}"
            raise SettingError("vocabulary", found, fix="leave --vocabulary out, or give the corpus's own tokenizer")
        arrays = TokenArrays(
            files=self.corpus.files, dtype=self.dtype, vocabulary=self.vocabulary or many, separator=self.separator,
            end=self.end,
        )  # fmt: skip
        return store_arrays(store, arrays, block=self.block, progress=progress)


@contextmanager
def work_folder(out: Path, made_from: Mapping[str, Any], *, resume: bool, force: bool) -> Iterator[TokenStore]:
    """A store in `OUT.tokens`, new or (`resume`) as an interrupted run left it; gone when all went well.

    It stays after an interruption, and with `resume` after a refusal. Raises OutputError if it is there and neither
    `resume` nor `force` is given.
    """
    folder = out.with_name(f"{out.name}.tokens")
    there = folder.is_dir()
    if there and not resume and not force:
        fix = "go on from it with --resume, or start again with --force"
        raise OutputError(str(folder), "holds counts of an interrupted run", fix=fix)
    if there and not resume:
        TokenStore.check(folder)
        shutil.rmtree(folder)
    try:
        if folder.is_dir():
            yield TokenStore.resume(folder, made_from)
        else:
            folder.mkdir()
            yield TokenStore.create(folder, made_from)
    except DeltagramError:
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)


def _told(documents: Iterator[tuple[str, int]], size: int, progress: Progress) -> Iterator[str]:
    """The texts, while a bar moves."""
    for text, at in documents:
        progress.advance("training the tokenizer", at, size)
        yield text
