"""The geometry of words and contexts: embeddings up to rotation, predicted or measured, and how two of them differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.gram import cosines
from deltagram.geometry.matrix import ALL, Matrix, Rows, distance


@dataclass(frozen=True, kw_only=True, eq=False)
class WordContext:
    """Vectors of words W (word, feature) and of contexts H (context, feature), of which Grams and cosines count.

    `words` is the Gram W W^T, `contexts` H H^T, `logits` are W H^T where `paired`: the two sides share features, as in
    a model; else each is known up to a rotation of its own. `conventions` says what a reader must know of the numbers.
    """

    name: str
    word_vectors: F64
    context_vectors: F64
    paired: bool = True
    word_names: tuple[str, ...] = ()
    context_names: tuple[str, ...] = ()
    conventions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sides = (("word", self.word_vectors, self.word_names), ("context", self.context_vectors, self.context_names))
        for side, vectors, names in sides:
            if vectors.ndim != 2 or not np.isfinite(vectors).all():
                raise SettingError(self.name, f"{side} vectors of shape {vectors.shape}", expected="finite, two axes")
            if names and len(names) != len(vectors):
                raise SettingError(self.name, f"has {len(names)} {side} names", expected=f"{len(vectors)}, or none")
        dims = self.word_vectors.shape[1], self.context_vectors.shape[1]
        if self.paired and dims[0] != dims[1]:
            raise SettingError(self.name, f"has vectors of {dims[0]} and {dims[1]} features", expected="as many")

    @classmethod
    def of_vectors(
        cls,
        words: ArrayLike,
        contexts: ArrayLike,
        *,
        name: str,
        word_names: tuple[str, ...] = (),
        context_names: tuple[str, ...] = (),
    ) -> Self:
        """Of a model: output embeddings (word, feature) and hidden states (context, feature).

        Words are centred, which takes the same number from all logits of a context: no probability depends on it.
        """
        w, h = np.asarray(words, np.float64), np.asarray(contexts, np.float64)
        return cls(
            name=name, word_vectors=w - w.mean(0), context_vectors=h, word_names=word_names,
            context_names=context_names, conventions={"words": "centred"},
        )  # fmt: skip

    @classmethod
    def of_factors(
        cls,
        factors: tuple[F64, F64, F64],
        *,
        name: str,
        word_names: tuple[str, ...] = (),
        context_names: tuple[str, ...] = (),
        conventions: Mapping[str, str],
    ) -> Self:
        """Of logits `U diag(s) V^T`, U (word, r), V (context, r): embeddings of least norm, `U s^(1/2)`, `V s^(1/2)`.

        Their Grams are `(L L^T)^(1/2)` and `(L^T L)^(1/2)`.
        """
        u, s, v = factors
        return cls(
            name=name, word_vectors=u * np.sqrt(s), context_vectors=v * np.sqrt(s), word_names=word_names,
            context_names=context_names, conventions=conventions,
        )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        """Words, contexts."""
        return len(self.word_vectors), len(self.context_vectors)

    @property
    def words(self) -> Matrix:
        """The Gram of words, thin."""
        return Matrix.of_vectors(self.word_vectors)

    @property
    def contexts(self) -> Matrix:
        """The Gram of contexts, thin."""
        return Matrix.of_vectors(self.context_vectors)

    def logits(self, words: Rows = ALL, contexts: Rows = ALL) -> F64:
        """Logits of these words and contexts. Raises SettingError where the two sides are not paired."""
        if not self.paired:
            raise SettingError(self.name, "has no logits", fix="words and contexts are known up to rotations apart")
        found: F64 = self.word_vectors[words] @ self.context_vectors[contexts].T
        return found

    def word_cosines(self, rows: Rows = ALL, cols: Rows = ALL) -> F64:
        """Cosines between words, at these rows and columns; NaN where a vector is zero."""
        return cosines(self.words, rows, cols)

    def context_cosines(self, rows: Rows = ALL, cols: Rows = ALL) -> F64:
        """Cosines between contexts, likewise."""
        return cosines(self.contexts, rows, cols)

    def data(self) -> dict[str, Any]:
        """As JSON has it; `of_data` reads it."""
        return {
            "kind": "words and contexts", "name": self.name, "paired": self.paired,
            "word_vectors": self.word_vectors.tolist(), "context_vectors": self.context_vectors.tolist(),
            "word_names": list(self.word_names), "context_names": list(self.context_names),
            "conventions": dict(self.conventions),
        }  # fmt: skip

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Self:
        """What `data` wrote. Raises SettingError for anything else."""
        try:
            if data["kind"] != "words and contexts":
                raise ValueError(data["kind"])
            words, contexts = (np.asarray(data[part], np.float64) for part in ("word_vectors", "context_vectors"))
            return cls(
                name=str(data["name"]), word_vectors=words, context_vectors=contexts, paired=bool(data["paired"]),
                word_names=tuple(data["word_names"]), context_names=tuple(data["context_names"]),
                conventions=dict(data["conventions"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as fault:
            raise SettingError(
                "words and contexts", f"cannot be read ({fault!r})", expected="what predict --tokens -o writes"
            ) from None


@dataclass(frozen=True, kw_only=True)
class WordContextComparison:
    """Normalised Gram distances (0 equal, sqrt 2 orthogonal), and correlations of the cosines of pairs.

    `logits` is the distance of logits, None where one side has none. A correlation is NaN without two different
    cosines.
    """

    words: float
    contexts: float
    logits: float | None
    word_correlation: float
    context_correlation: float


def compare_tokens(measured: WordContext, predicted: WordContext) -> WordContextComparison:
    """How far two geometries of the same words and contexts are apart; scale and rotation do not count.

    All from thin products: no matrix of contexts by contexts is formed. Raises SettingError for other numbers of them.
    """
    if measured.shape != predicted.shape:
        sizes = [f"{one.name} has {one.shape[0]} words and {one.shape[1]} contexts" for one in (measured, predicted)]
        raise SettingError("compare", ", ".join(sizes))
    pairs = (
        (measured.word_vectors, predicted.word_vectors),
        (measured.context_vectors, predicted.context_vectors),
    )
    correlations = [cosine_correlation(*pair) for pair in pairs]
    return WordContextComparison(
        words=distance(measured.words, predicted.words), contexts=distance(measured.contexts, predicted.contexts),
        logits=_logit_distance(measured, predicted), word_correlation=correlations[0],
        context_correlation=correlations[1],
    )  # fmt: skip


def cosine_correlation(one: F64, other: F64) -> float:
    """Pearson correlation of the cosines of all pairs of rows, each with itself left out; (row, feature) both.

    Rows that are zero in either have no cosine and are left out. NaN for fewer than three rows or equal cosines.
    """
    sizes = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    there = (sizes[0] > 0) & (sizes[1] > 0)
    rows = int(there.sum())
    pairs = rows * (rows - 1)
    if rows < 3:
        return float("nan")
    x, y = (part[there] / size[there, None] for part, size in zip((one, other), sizes, strict=True))

    def products(a: F64, b: F64) -> float:
        return float(np.square(a.T @ b).sum() - rows)

    def total(a: F64) -> float:
        whole = a.sum(0)
        return float(whole @ whole - rows)

    means = total(x) / pairs, total(y) / pairs
    spread = products(x, x) / pairs - means[0] ** 2, products(y, y) / pairs - means[1] ** 2
    if min(spread) <= _FLAT:
        return float("nan")
    return float((products(x, y) / pairs - means[0] * means[1]) / np.sqrt(spread[0] * spread[1]))


_FLAT = 1e-12  # a variance of cosines that rounding makes


def _logit_distance(one: WordContext, other: WordContext) -> float | None:
    """As `distance`, of products of thin factors."""
    if not (one.paired and other.paired):
        return None
    norms = [float(np.sqrt(max(_inner(part, part), 0.0))) for part in (one, other)]
    if not all(norms):
        return float("nan")
    left = np.hstack([one.word_vectors / norms[0], -other.word_vectors / norms[1]])
    right = np.hstack([one.context_vectors, other.context_vectors])
    core = np.linalg.qr(left)[1] @ np.linalg.qr(right)[1].T
    return float(np.linalg.norm(core))


def _inner(one: WordContext, other: WordContext) -> float:
    words, contexts = one.word_vectors.T @ other.word_vectors, one.context_vectors.T @ other.context_vectors
    return float((words * contexts).sum())
