"""Labels as a sparse matrix: what follows each context, or which class each sample is of; one-hot or soft."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from deltagram.arrays import F64
from deltagram.data.imbalance import I64
from deltagram.errors import SettingError

FORMAT: Final = 1
_TINY: Final = 1e-9  # by which a column of probabilities may miss 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Supports:
    """The distinct supports of a LabelMatrix: which words can follow, and in how many contexts.

    `matrix` (word, support) is 0 or 1; `multiplicity` (support) counts contexts, `weight` (support) adds up their
    shares; `of` (context) is the support of each context.
    """

    matrix: sparse.csc_array
    multiplicity: I64
    weight: F64
    of: I64

    @property
    def sizes(self) -> I64:
        """Words in each support, (support)."""
        sizes: I64 = np.diff(self.matrix.indptr).astype(np.int64)
        return sizes


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMatrix:
    """Conditional probabilities of words (or classes) given contexts (or samples), and how often each context occurs.

    `probabilities` (word, context) is sparse, by columns, which add up to 1; its stored entries are the supports.
    `weights` (context) are the shares of the contexts, adding up to 1. `samples` is how many samples it was counted
    from, 0 if it was not. `words` and `contexts` are names, empty where there are none. Where both come from token
    numbers, `word_ids` (word) are those of the words, each once, and `context_ids` (context, length) those of the
    contexts, filled up with -1 on the left: what a language model is measured on.

    Raises SettingError for probabilities that are not positive or do not add up to 1, and for parts that do not fit.
    """

    probabilities: sparse.csc_array
    weights: F64
    samples: int = 0
    words: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    context_ids: I64 | None = None
    word_ids: I64 | None = None

    def __post_init__(self) -> None:
        p, pi = self.probabilities, self.weights
        if p.ndim != 2 or p.shape[0] < 2 or p.shape[1] < 1:
            raise SettingError("probabilities", f"have shape {p.shape}", expected="(word, context), two words or more")
        if pi.shape != (p.shape[1],) or not (np.isfinite(pi).all() and (pi > 0).all()):
            raise SettingError("weights", f"have shape {pi.shape}", expected=f"({p.shape[1]},), all positive")
        if abs(pi.sum() - 1) > _TINY * len(pi):
            raise SettingError("weights", f"add up to {pi.sum():g}", expected="1")
        if not (np.isfinite(p.data).all() and (p.data > 0).all()):
            raise SettingError("probabilities", "are not all positive where they are stored", expected="above 0")
        off = np.abs(np.asarray(p.sum(axis=0)).ravel() - 1)
        if off.max() > _TINY * p.shape[0]:
            where = int(off.argmax())
            raise SettingError(
                "probabilities", f"of context {where} miss 1 by {off[where]:g}", expected="columns of sum 1"
            )
        for name, names, size in (("words", self.words, p.shape[0]), ("contexts", self.contexts, p.shape[1])):
            if names and len(names) != size:
                raise SettingError(name, f"are {len(names)} names", expected=f"{size}, or none")
        _check_ids(self.context_ids, self.word_ids, words=p.shape[0], contexts=p.shape[1])

    @classmethod
    def of_counts(cls, counts: Any, *, words: Sequence[str] = (), contexts: Sequence[str] = ()) -> Self:
        """From counts (word, context), dense or sparse. Raises SettingError for a context without a count.

        >>> made = LabelMatrix.of_counts([[3, 1], [1, 0], [0, 1]])
        >>> made.shape, made.samples, made.sizes.tolist(), round(made.entropy, 4)
        ((3, 2), 6, [2, 2], 0.6059)
        """
        n = sparse.csc_array(counts)
        n.sum_duplicates()
        n.eliminate_zeros()
        if n.nnz and (not np.isfinite(n.data).all() or (n.data < 0).any() or (n.data != np.floor(n.data)).any()):
            raise SettingError("counts", "are not all whole numbers from 0", expected="how often a word follows")
        total = np.asarray(n.sum(axis=0), np.float64).ravel()
        if not len(total) or not total.all():
            where = int(np.argmin(total)) if len(total) else 0
            raise SettingError("counts", f"context {where} is followed by nothing", expected="a count in each context")
        p = sparse.csc_array((n.data / np.repeat(total, np.diff(n.indptr)), n.indices, n.indptr), shape=n.shape)
        return cls(
            probabilities=p, weights=total / total.sum(), samples=int(total.sum()), words=tuple(words),
            contexts=tuple(contexts),
        )  # fmt: skip

    @classmethod
    def one_hot(cls, counts: ArrayLike) -> Self:
        """Of a classification with so many samples a class: one context a sample, all alike in weight.

        >>> LabelMatrix.one_hot([2, 1]).supports.multiplicity
        array([2, 1])
        """
        n = np.asarray(counts, np.int64)
        label = np.repeat(np.arange(len(n)), n)
        one = np.ones(len(label))
        p = sparse.csc_array((one, label, np.arange(len(label) + 1)), shape=(len(n), len(label)))
        return cls(probabilities=p, weights=one / len(label), samples=len(label))

    @property
    def shape(self) -> tuple[int, int]:
        """Words, contexts."""
        rows, columns = self.probabilities.shape
        return int(rows), int(columns)

    @property
    def sizes(self) -> I64:
        """Words that can follow each context, (context)."""
        sizes: I64 = np.diff(self.probabilities.indptr).astype(np.int64)
        return sizes

    @cached_property
    def entropy(self) -> float:
        """The least cross-entropy there can be, in nats a sample: of words given contexts."""
        p = self.probabilities
        each = np.add.reduceat(p.data * np.log(p.data), p.indptr[:-1])
        return float(-(self.weights @ each))

    @cached_property
    def support(self) -> sparse.csc_array:
        """1 where a word can follow a context, (word, context)."""
        p = self.probabilities
        return sparse.csc_array((np.ones(p.nnz), p.indices, p.indptr), shape=p.shape)

    @cached_property
    def supports(self) -> Supports:
        """The distinct supports, in the order in which they come first."""
        of, first = same_places(self.probabilities)
        return Supports(
            matrix=self.support[:, first], multiplicity=np.bincount(of).astype(np.int64),
            weight=np.bincount(of, weights=self.weights).astype(np.float64), of=of,
        )  # fmt: skip

    def taken(self, contexts: NDArray[Any]) -> Self:
        """These contexts alone, their weights made to add up to 1; words are all kept."""
        chosen = np.asarray(contexts)
        weight = self.weights[chosen]
        names = tuple(np.asarray(self.contexts, object)[chosen]) if self.contexts else ()
        ids = None if self.context_ids is None else self.context_ids[chosen]
        return replace(
            self, probabilities=sparse.csc_array(self.probabilities[:, chosen]), weights=weight / weight.sum(),
            contexts=names, context_ids=ids,
        )  # fmt: skip

    def occurring(self) -> tuple[Self, I64]:
        """Without words that follow no context; and which are left, (word).

        >>> LabelMatrix.of_counts([[1, 2], [0, 0], [0, 1]]).occurring()[1]
        array([0, 2])
        """
        rows = np.unique(self.probabilities.indices).astype(np.int64)
        names = tuple(np.asarray(self.words, object)[rows]) if self.words else ()
        ids = None if self.word_ids is None else self.word_ids[rows]
        p = sparse.csc_array(sparse.csr_array(self.probabilities)[rows])
        return replace(self, probabilities=p, words=names, word_ids=ids), rows

    def save(self, path: Path | str) -> None:
        """Write it as .npz (no pickle); `load` reads it."""
        p = self.probabilities
        given = {"context_ids": self.context_ids, "word_ids": self.word_ids}
        ids: dict[str, Any] = {name: part for name, part in given.items() if part is not None}
        with Path(path).open("wb") as file:
            np.savez_compressed(
                file, format=np.int64(FORMAT), data=p.data, indices=p.indices, indptr=p.indptr,
                shape=np.asarray(p.shape, np.int64), weights=self.weights, samples=np.int64(self.samples),
                words=np.asarray(self.words, np.str_), contexts=np.asarray(self.contexts, np.str_), **ids,
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """What `save` wrote. Raises SettingError for anything else."""
        try:
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                if int(file["format"]) != FORMAT:
                    raise SettingError(str(path), f"has format {int(file['format'])}", expected=f"{FORMAT}")
                rows, columns = file["shape"].tolist()
                p = sparse.csc_array((file["data"], file["indices"], file["indptr"]), shape=(rows, columns))
                p.check_format(full_check=True)
                ids = {name: file[name] for name in ("context_ids", "word_ids") if name in file}
                return cls(
                    probabilities=p, weights=file["weights"], samples=int(file["samples"]),
                    words=tuple(file["words"].tolist()), contexts=tuple(file["contexts"].tolist()), **ids,
                )  # fmt: skip
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as fault:
            raise SettingError(
                str(path), f"holds no labels ({' '.join(str(fault).split())[:120]})", expected="what `tokens` writes"
            ) from None


def same_places(matrix: sparse.csc_array | sparse.csr_array) -> tuple[I64, I64]:
    """Columns (of a CSR array: rows) that store the same places: the group of each, and the first of each group.

    Groups are numbered in the order in which they come first.
    """
    by = matrix.sorted_indices()
    keys: dict[bytes, int] = {}
    of = np.empty(len(by.indptr) - 1, np.int64)
    first: list[int] = []
    for number in range(len(of)):
        key = by.indices[by.indptr[number] : by.indptr[number + 1]].astype(np.int32).tobytes()
        of[number] = keys.setdefault(key, len(keys))
        if len(first) < len(keys):
            first.append(number)
    return of, np.asarray(first, np.int64)


def _check_ids(context_ids: I64 | None, word_ids: I64 | None, *, words: int, contexts: int) -> None:
    """SettingError for token numbers that cannot be of these words and contexts."""
    if word_ids is not None:
        if word_ids.dtype != np.int64 or word_ids.shape != (words,) or (word_ids < 0).any():
            raise SettingError(
                "word_ids", f"are {word_ids.dtype} {word_ids.shape}", expected=f"int64 ({words},), from 0"
            )
        if len(np.unique(word_ids)) != words:
            raise SettingError("word_ids", "hold a number twice", expected="one number a word")
    if context_ids is not None:
        if context_ids.dtype != np.int64 or context_ids.ndim != 2 or len(context_ids) != contexts:
            found = f"are {context_ids.dtype} {context_ids.shape}"
            raise SettingError("context_ids", found, expected=f"int64 ({contexts}, length)")
        there = context_ids >= 0
        whole = context_ids.shape[1] > 0 and bool(there[:, -1].all() and (context_ids >= -1).all())
        if not whole or (there[:, :-1] & ~there[:, 1:]).any():
            raise SettingError("context_ids", "have a gap", expected="token numbers, after -1 on the left alone")
