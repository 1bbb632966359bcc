"""Which contexts and next tokens of a corpus are kept: thresholds that filter its samples, in one pass over counts."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64
from deltagram.data.contexts import U64
from deltagram.data.imbalance import I64
from deltagram.data.ngramcounts import Counts
from deltagram.data.words import U32
from deltagram.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What a sample (context, next token) must pass, in this order.

    `words`: its token is one of so many that come next most often (ties: the smaller number). `count`: its context has
    so many samples left. `following`: the pair occurs so often. `probability`: so large is the pair's share of the
    samples that its context had left. `contexts`: its context is one of so many with the most samples left (ties: the
    first in order).
    """

    words: int | None = None
    count: int = 1
    following: int = 1
    probability: float = 0.0
    contexts: int | None = None

    def __post_init__(self) -> None:
        for name in ("words", "count", "following", "contexts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(_OPTION[name], f"is {value}", expected="1 or more")
        if not 0 <= self.probability <= 1:
            raise SettingError(_OPTION["probability"], f"is {self.probability:g}", expected="0 to 1")

    def allowed(self, following: I64) -> NDArray[np.bool_]:
        """Which next tokens may stay, given how often each comes next."""
        found = following > 0
        if self.words is not None and self.words < int(found.sum()):
            found = np.zeros(len(following), np.bool_)
            found[np.argsort(-following, kind="stable")[: self.words]] = True
        return found


_OPTION = {
    "words": "words", "count": "min_count", "following": "min_next", "probability": "min_probability",
    "contexts": "max_contexts",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """Contexts that stay, in order: their `words` and `sizes` (tokens that follow), and (context by context) counts.

    `seen` and `samples` are how many contexts and samples there were before any threshold.
    """

    words: tuple[U64, ...]
    sizes: I64
    following: U32
    count: I64
    seen: int = 0
    samples: int = 0

    @property
    def totals(self) -> I64:
        """Samples of each context."""
        starts = np.cumsum(self.sizes) - self.sizes
        return np.add.reduceat(self.count, starts) if len(starts) else np.zeros(0, np.int64)

    def taken(self, chosen: NDArray[np.bool_]) -> "Kept":
        """These contexts alone."""
        rows = np.repeat(chosen, self.sizes)
        return Kept(
            words=tuple(word[chosen] for word in self.words), sizes=self.sizes[chosen],
            following=self.following[rows], count=self.count[rows], seen=self.seen, samples=self.samples,
        )  # fmt: skip

    def most(self, contexts: int | None) -> "Kept":
        """The contexts with the most samples, in order; ties go to the first."""
        if contexts is None or len(self.sizes) <= contexts:
            return self
        chosen = np.zeros(len(self.sizes), np.bool_)
        chosen[np.argsort(-self.totals, kind="stable")[:contexts]] = True
        return self.taken(chosen)


def filtered(
    parts: Iterable[Counts], thresholds: Thresholds, *, words: int, allowed: NDArray[np.bool_], room: int
) -> Kept:
    """What passes, of counts that come in order, each context of so many `words`.

    Raises SettingError if more than `room` pairs would have to be held.
    """
    held: list[Kept] = []
    pairs = 0
    for whole in _whole_contexts(parts):
        held.append(_passing(whole, thresholds, allowed))
        pairs += len(held[-1].count)
        if pairs > room or (thresholds.contexts and sum(len(k.sizes) for k in held) > 2 * thresholds.contexts):
            held = [joined(held).most(thresholds.contexts)]
            pairs = len(held[0].count)
        if pairs > room:
            found = f"would leave more than {room:,} pairs of a context and a next token"
            fix = "raise --min-count, give --max-contexts, or more --memory"
            raise SettingError("thresholds", found, expected="as many as the memory holds", fix=fix)
    if not held:
        none = np.zeros(0, np.int64)
        empty = tuple(np.zeros(0, np.uint64) for _ in range(words))
        return Kept(words=empty, sizes=none, following=np.zeros(0, np.uint32), count=none)
    return joined(held).most(thresholds.contexts)


def joined(parts: list[Kept]) -> Kept:
    """Parts that follow each other as one."""
    if len(parts) == 1:
        return parts[0]
    return Kept(
        words=tuple(np.concatenate(words) for words in zip(*(k.words for k in parts), strict=True)),
        sizes=np.concatenate([k.sizes for k in parts]),
        following=np.concatenate([k.following for k in parts]), count=np.concatenate([k.count for k in parts]),
        seen=sum(k.seen for k in parts), samples=sum(k.samples for k in parts),
    )  # fmt: skip


def _whole_contexts(parts: Iterable[Counts]) -> Iterable[Counts]:
    """The same counts in parts that end where a context does."""
    carried: Counts | None = None
    for part in parts:
        if not len(part.count):
            continue
        whole = part if carried is None else _both(carried, part)
        last = int(_starts(whole)[-1])
        carried = _slice(whole, last, None)
        if last:
            yield _slice(whole, 0, last)
    if carried is not None:
        yield carried


def _both(a: Counts, b: Counts) -> Counts:
    words = tuple(np.concatenate(pair) for pair in zip(a.words, b.words, strict=True))
    return Counts(
        words=words, following=np.concatenate([a.following, b.following]), count=np.concatenate([a.count, b.count])
    )


def _slice(part: Counts, start: int, stop: int | None) -> Counts:
    words = tuple(word[start:stop] for word in part.words)
    return Counts(words=words, following=part.following[start:stop], count=part.count[start:stop])


def _starts(part: Counts) -> I64:
    """Where each context begins."""
    new = np.ones(len(part.count), np.bool_)
    new[1:] = np.logical_or.reduce([word[1:] != word[:-1] for word in part.words])
    return np.flatnonzero(new)


def _passing(part: Counts, thresholds: Thresholds, allowed: NDArray[np.bool_]) -> Kept:
    """Of whole contexts, what passes each threshold but the number of contexts."""
    starts = _starts(part)
    sizes = np.diff(np.append(starts, len(part.count)))
    left = np.where(allowed[part.following], part.count, 0)
    total = np.repeat(np.add.reduceat(left, starts), sizes)
    passes = (left > 0) & (total >= thresholds.count) & (left >= thresholds.following)
    passes &= _share(left, total) >= thresholds.probability
    of = np.add.reduceat(passes.astype(np.int64), starts)
    kept = of > 0
    return Kept(
        words=tuple(word[starts[kept]] for word in part.words), sizes=of[kept], following=part.following[passes],
        count=part.count[passes], seen=len(starts), samples=int(part.count.sum()),
    )  # fmt: skip


def _share(left: I64, total: I64) -> F64:
    """The quotients, rounded once; 0 of nothing."""
    found: F64 = np.divide(left, total, where=total > 0, out=np.zeros(len(left)))
    return found
