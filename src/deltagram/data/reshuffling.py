"""How many epochs of batches drawn anew it takes until together they leave one minimiser: an estimate.

Two members of a class of m samples are in one batch of an epoch with probability q, so after T epochs the class is
about a random graph of m vertices whose edges are there with probability 1 - (1 - q)^T, each for itself. Whether such
a graph is connected Gilbert's recursion says exactly; of more than 24 vertices nearly all that can keep it apart are
vertices without an edge, whose number is about Poisson's. Within one epoch edges are far from independent: there a
class is connected only if all of it is in one batch. Two classes have an active edge where a batch has both, and two
samples or more (embeddings, with views) of one: each sample of the smaller class has one chance an epoch. All this is
taken to be independent, between classes, too.
"""

from itertools import pairwise
from math import comb, lgamma

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.data.imbalance import I64
from deltagram.data.rounds import check_least
from deltagram.errors import SettingError

_EXACT = 24  # vertices up to which the recursion is used
_SIZES = 64  # different class sizes, smallest first, whose pairs are looked at: large classes meet at once
_LAST = 10_000_000
_EPOCHS = np.unique(np.concatenate([np.arange(512), np.geomspace(512, _LAST, 500).round()])).astype(np.float64)


def expected_epochs(counts: ArrayLike, batch_size: int, *, views: int = 1) -> float | None:
    """Mean number of epochs of shuffled batches until each class is one component and each pair has an active edge.

    `counts` are samples a class; empty classes do not count. None where it is never, as for two classes of one sample
    in one view, or millions. Raises SettingError for counts below 0, fewer than two classes, and settings below 1.

    >>> expected_epochs([32, 32], 64)
    1.0
    >>> round(expected_epochs([500, 500, 5, 5], 50, views=2))
    16
    """
    found = np.asarray(counts)
    if found.ndim != 1 or found.dtype.kind not in "iu" or (found < 0).any() or np.count_nonzero(found) < 2:
        raise SettingError("counts", f"are {found.tolist()}", expected="whole numbers, two or more of them above 0")
    check_least(batch_size=batch_size, views=views)
    size, classes = np.unique(found[found > 0], return_counts=True)
    if views == 1 and size[0] == 1 and classes[0] > 1:
        return None
    samples = int(found.sum())
    if batch_size >= samples:
        return 1.0
    done = _log_met(size[:_SIZES], classes[:_SIZES], samples=samples, batch=batch_size, views=views)
    for count, times in zip(size.tolist(), classes.tolist(), strict=True):
        done += times * _log_connected(count, samples=samples, batch=batch_size)
    apart = -np.expm1(np.minimum(done, 0.0))
    if apart[-1] * _LAST > 1:
        return None
    between = sum((b - a) * (x + y) / 2 for (a, b), (x, y) in zip(pairwise(_EPOCHS), pairwise(apart), strict=True))
    return float(between + apart[0] / 2)


def _log_connected(count: int, *, samples: int, batch: int) -> F64:
    """Log of the probability that a class of `count` samples is connected after each number of epochs."""
    if count == 1:
        return np.where(_EPOCHS > 0, 0.0, -np.inf)
    batches, rest = divmod(samples, batch)
    sizes = [(batch, batches)] + [(rest, 1)] * (rest > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        if count <= _EXACT:
            together = sum(times * size * (size - 1) for size, times in sizes) / (samples * (samples - 1))
            found = np.log(_gilbert(count, np.exp(_EPOCHS * np.log1p(-together))))
        else:
            alone = sum(
                times * size / samples * np.exp(_log_drawn(0, count - 1, samples=samples - 1, batch=size - 1))
                for size, times in sizes
            )
            found = -count * np.exp(_EPOCHS * np.log(alone))
        whole = sum(times * np.exp(_log_drawn(count, count, samples=samples, batch=size)) for size, times in sizes)
        found[:2] = -np.inf, np.log(whole)
    return found


def _gilbert(vertices: int, without: F64) -> F64:
    """Probability that a random graph is connected (E. N. Gilbert, 1959); `without` is that of no edge in a pair."""
    connected = [np.ones_like(without)]
    for m in range(2, vertices + 1):
        apart = sum(comb(m - 1, j - 1) * connected[j - 1] * without ** (j * (m - j)) for j in range(1, m))
        connected.append(np.maximum(1 - apart, 0.0))
    return connected[-1]


def _log_met(size: I64, classes: I64, *, samples: int, batch: int, views: int) -> F64:
    """Log of the probability that all pairs of classes have an active edge after each number of epochs.

    A sample of the smaller class meets two of the larger, or one while another of its own class is there, too.
    """
    done = np.where(_EPOCHS > 0, 0.0, -np.inf)
    for i, (count, times) in enumerate(zip(size.tolist(), classes.tolist(), strict=True)):
        alone = np.exp(_log_drawn(0, count - 1, samples=samples - 1, batch=batch - 1))
        for other, others in zip(size[i:].tolist(), classes[i:].tolist(), strict=True):
            pairs = times * others if other > count else times * (times - 1) // 2
            none, one = (np.exp(_log_drawn(k, other, samples=samples - 1, batch=batch - 1)) for k in (0, 1))
            missed = min(none + one * alone * (views == 1), 1.0)
            if pairs:
                with np.errstate(divide="ignore"):
                    done[1:] += pairs * np.log1p(-(missed ** (count * _EPOCHS[1:])))
    return done


def _log_drawn(drawn: int, marked: int, *, samples: int, batch: int) -> float:
    """Log of the probability that `batch` of `samples`, `marked` of them, hold `drawn` marked ones (hypergeometric)."""
    if not max(0, batch - samples + marked) <= drawn <= min(marked, batch):
        return -np.inf
    return _log_comb(marked, drawn) + _log_comb(samples - marked, batch - drawn) - _log_comb(samples, batch)


def _log_comb(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
