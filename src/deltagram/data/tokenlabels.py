"""Kept contexts of a corpus as a LabelMatrix."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from scipy import sparse

from deltagram.data.contexts import Packing
from deltagram.data.imbalance import I64
from deltagram.data.labels import LabelMatrix
from deltagram.data.thresholds import Kept, joined
from deltagram.errors import SettingError

NAMED: Final = 500_000  # contexts up to which they are named: beyond, names take more memory than counts


def label_matrix(
    kept: Sequence[tuple[Packing, Kept]], *, tokens: I64, names: Sequence[str], joined_by: str, contexts: int | None
) -> LabelMatrix:
    """Contexts of one or several lengths, the most frequent first (ties: the shorter, then in order of keys).

    `tokens` are the token numbers of ranks in keys, `names` those of token numbers; `contexts` how many stay at most.
    Words are those that follow a context that stays.
    """
    longest = max(packing.length for packing, _ in kept)
    numbers = np.full((sum(len(k.sizes) for _, k in kept), longest), -1, np.int64)
    row = 0
    for packing, k in kept:
        numbers[row : row + len(k.sizes), longest - packing.length :] = tokens[packing.unpacked(k.words)]
        row += len(k.sizes)
    whole = joined([Kept(words=(), sizes=k.sizes, following=k.following, count=k.count) for _, k in kept])
    order = np.argsort(-whole.totals, kind="stable")[:contexts]
    sizes = whole.sizes[order]
    starts = (np.cumsum(whole.sizes) - whole.sizes)[order]
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    entries = np.repeat(starts - indptr[:-1], sizes) + np.arange(indptr[-1])
    used = np.unique(whole.following[entries])
    indices = np.searchsorted(used, whole.following[entries])
    counts = sparse.csc_array((whole.count[entries], indices, indptr), shape=(len(used), len(order)))
    if len(used) < 2:
        found = f"leave one next word ({names[tokens[used[0]]]!r}), which is always right"
        raise SettingError("thresholds", found, expected="two words or more that follow contexts", fix="lower them")
    ids = numbers[order]
    labels = LabelMatrix.of_counts(
        counts, words=[names[number] for number in tokens[used]],
        contexts=_named(ids, names, joined_by) if len(order) <= NAMED else (),
    )  # fmt: skip
    return replace(labels, word_ids=tokens[used], context_ids=ids)


def _named(contexts: I64, names: Sequence[str], joined_by: str) -> list[str]:
    return [joined_by.join(names[number] for number in row if number >= 0) for row in contexts.tolist()]
