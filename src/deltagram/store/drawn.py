"""Seeded masks of a tensor: drawn, and described by manifest and parts."""

from collections.abc import Iterable, Mapping

import numpy as np

from deltagram import seeds
from deltagram.arrays import U32, Spec, entries
from deltagram.delta import kernels
from deltagram.delta.masks import Bernoulli, Stratified
from deltagram.delta.methods import Structural, kept_count, threshold
from deltagram.delta.plan import Entry
from deltagram.delta.scores import largest_columns
from deltagram.delta.submatrix import Submatrix, inside, random_columns
from deltagram.store.masks import BernoulliMask, ColumnsMask, StratifiedMask
from deltagram.store.scan import Pair, Scan

Drawn = Stratified | Bernoulli | Submatrix
_Parts = Mapping[str, tuple[Spec, Iterable[bytes]]]


def draw(entry: Entry, pair: Pair) -> Drawn:
    """The mask of a tensor; where columns are chosen by a score, that takes one pass over both tensors."""
    key, size = seeds.key(pair.seed, entry.name), entries(entry.common)
    if isinstance(entry.method, Structural):
        return _submatrix(entry, pair, entry.method, key)
    if entry.method.mask == "stratified":
        return Stratified(size=size, keep=kept_count(entry.method, size), key=key)
    return Bernoulli.draw(size=size, key=key, threshold=threshold(entry.method))


def _submatrix(entry: Entry, pair: Pair, method: Structural, key: int) -> Submatrix:
    rows, cols = entry.common
    within = inside(method, entry.common)
    if method.score == "random":
        columns = random_columns(key, cols, count=within.columns)
    else:
        columns = _largest(entry, pair, method, count=within.columns)
    return Submatrix(rows=rows, cols=cols, columns=columns, inside=within.draw(key))


def _largest(entry: Entry, pair: Pair, method: Structural, *, count: int) -> U32:
    """Columns by ||delta_:j||, times ||x_j|| if the method weighs by inputs."""
    scan, cols = Scan(pair, entry), entry.common[1]
    squares = np.zeros(cols, np.float64)
    for start, stop in scan.spans(multiple=cols):
        kernels.column_squares(scan.differences(start, stop, first=False), squares)
    norms = pair.norms[entry.name].values if method.score == "wanda" else None
    return largest_columns(squares, norms, count=count)


def describe(mask: Drawn, entry: Entry, *, check: str) -> tuple[StratifiedMask | BernoulliMask | ColumnsMask, _Parts]:
    """What the manifest says of a mask, and the parts that belong to it."""
    if isinstance(mask, Stratified):
        return StratifiedMask(keep=mask.keep, check=check), {}
    if isinstance(mask, Bernoulli):
        return BernoulliMask(threshold=mask.threshold, keep=mask.keep, check=check), _counts(mask)
    columns = {"columns": (Spec(dtype="U32", shape=mask.columns.shape), [mask.columns.astype("<u4").tobytes()])}
    drawn = mask.inside
    described = ColumnsMask(
        columns=mask.columns.size,
        score=entry.method.score if isinstance(entry.method, Structural) else "random",
        threshold=drawn.threshold if isinstance(drawn, Bernoulli) else None,
        keep=mask.keep,
        check=check,
    )
    return described, columns | (_counts(drawn) if isinstance(drawn, Bernoulli) else {})


def _counts(mask: Bernoulli) -> dict[str, tuple[Spec, Iterable[bytes]]]:
    return {"counts": (Spec(dtype="U32", shape=(len(mask.counts),)), [np.array(mask.counts, "<u4").tobytes()])}
