"""Listed entries of a tensor pair, chosen by a score: streamed in blocks, exact, with deterministic ties."""

from collections.abc import Iterator

import numpy as np

from deltagram.arrays import F32, U64, entries
from deltagram.delta import kernels, scores
from deltagram.delta.methods import Listed, kept_count
from deltagram.delta.plan import Entry
from deltagram.delta.scores import InputNorms
from deltagram.store.scan import Scan

_Found = Iterator[tuple[U64, F32]]


def chosen(entry: Entry, scan: Scan, method: Listed, norms: InputNorms | None) -> _Found:
    """Positions and (unscaled) differences of the entries of largest score, block by block.

    The score is the magnitude, weighed by `norms` if there are any. Ends early for a tensor that turns out to be the
    base's. Raises PlanError for NaN and infinity.
    """
    return (_rows if method.by_row else _overall)(entry, scan, method, norms)


def _overall(entry: Entry, scan: Scan, method: Listed, norms: InputNorms | None) -> _Found:
    """Three passes: two find the threshold (the first also hashes and searches), the third gathers."""
    passes = 0

    def pairs(*, first: bool) -> Iterator[tuple[F32, F32]]:
        for start, stop in scan.spans():
            values = scan.differences(start, stop, first=first)
            yield _scored(entry, values, start, norms), values

    def blocks() -> Iterator[F32]:
        nonlocal passes
        passes += 1
        return (scored for scored, _ in pairs(first=passes == 1))

    found = scores.largest(blocks, keep=kept_count(method, entries(entry.common)))
    if scan.same:
        return
    scan.check_finite()
    yield from scores.kept(pairs(first=False), found)


def _rows(entry: Entry, scan: Scan, method: Listed, norms: InputNorms | None) -> _Found:
    """One pass over whole rows, which are the entries of the last axis; memory is one row, if that is more."""
    cols = entry.common[-1] if entry.common else 1
    size = entries(entry.common)
    keep = kept_count(method, size)
    for start, stop in scan.spans(multiple=cols):
        values = scan.differences(start, stop, first=True)
        quota = scores.quotas(keep, size // cols, first=start // cols, last=stop // cols)
        positions = kernels.select_rows(_scored(entry, values, start, norms), quota=quota, origin=start)
        yield positions, values[(positions - np.uint64(start)).astype(np.int64)]


def _scored(entry: Entry, values: F32, start: int, norms: InputNorms | None) -> F32:
    return values if norms is None else norms.scores(values, first=start, cols=entry.common[-1])
