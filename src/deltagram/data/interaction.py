"""The batch interaction graph: which samples the supervised contrastive loss of given batches holds together or apart.

Equality in the bound of arXiv 2306.07960, Theorem 2, asks of each anchor that it coincides with its positives and is
orthogonal to its negatives in the batch. Samples are vertices; what has such an anchor is an *active* edge:

- within a class, if the batch has another class, too. In a batch of one class, of three embeddings or more, all inner
  products are equal and nothing else: it ties its samples if two of them are tied already.
- between two classes, if one of them has two embeddings or more in the batch; otherwise neither sample is an anchor.

An embedding is a sample in one view; a sample that a batch repeats counts each time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import U64
from deltagram.data.imbalance import I64
from deltagram.data.ownbatches import checked_indices
from deltagram.errors import SettingError

_FEW = 16  # classes a batch, up to which pairs are written out


@dataclass(frozen=True, kw_only=True)
class Places:
    """Samples in batches, one after another: `sample` and `batch`, (place), and the number of batches."""

    sample: I64
    batch: I64
    batches: int

    @classmethod
    def of(cls, batches: Iterable[Any], *, samples: int) -> Self:
        """Every batch of an iterable; SettingError for none, an empty one, and what are no indices of samples."""
        found = [checked_indices(f"batch {number}", batch, samples=samples) for number, batch in enumerate(batches)]
        if not found:
            raise SettingError("batches", "are none", expected="one or more")
        sizes = [len(batch) for batch in found]
        return cls(
            sample=np.concatenate(found), batch=np.repeat(np.arange(len(found)), sizes), batches=len(found)
        )  # fmt: skip

    def bound(self, examples: I64, *, samples: int) -> Self:
        """The same batches with `examples` in each, once."""
        there = np.zeros(samples, np.bool_)
        there[examples] = True
        own = ~there[self.sample]
        return type(self)(
            sample=np.concatenate([self.sample[own], np.tile(examples, self.batches)]),
            batch=np.concatenate([self.batch[own], np.repeat(np.arange(self.batches), len(examples))]),
            batches=self.batches,
        )


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The samples of each class in each batch: places by batch and class, and where each group starts and ends."""

    sample: I64
    batch: I64
    label: I64
    start: I64
    size: I64
    anchors: NDArray[np.bool_]
    mixed: NDArray[np.bool_]

    @classmethod
    def of(cls, places: Places, label: I64, *, classes: int, views: int) -> Self:
        """Groups of `places`, in order of batch and class."""
        key = places.batch * classes + label[places.sample]
        order = _order(key)
        key = key[order]
        start = np.flatnonzero(np.diff(key, prepend=-1))
        size = np.diff(start, append=len(key))
        batch, group_label = np.divmod(key[start], classes)
        mixed = np.bincount(batch, minlength=places.batches)[batch] > 1
        return cls(
            sample=places.sample[order], batch=batch, label=group_label, start=start, size=size,
            anchors=size * views > 1, mixed=mixed,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Components by sample, and which pairs of classes an active edge joins.

    `component` is -1 for samples in no batch. `loose` are components after all that pure batches might tie has been
    joined. `linked` has one bit for each pair of classes, (class, word), a class counted as linked to itself.
    """

    component: I64
    loose: I64
    linked: U64

    @classmethod
    def of(cls, groups: Groups, label: I64, *, classes: int, views: int) -> Self:
        """The graph of all batches: O(places) memory, and classes^2 / 8 bytes."""
        component, loose = _components(groups, samples=len(label), views=views)
        return cls(component=component, loose=loose, linked=_linked(groups, classes=classes))

    def missing(self) -> I64:
        """How many other classes each class has no active edge to, (class)."""
        found: I64 = len(self.linked) - np.bitwise_count(self.linked).sum(axis=1, dtype=np.int64)
        return found

    def not_linked(self, class_: int) -> I64:
        """The classes that one has no active edge to."""
        bits = np.unpackbits(self.linked[class_].view(np.uint8), bitorder="little", count=len(self.linked))
        return np.flatnonzero(bits == 0)


def _order(key: I64) -> I64:
    """The stable order of whole numbers from 0; where number and place fit in 64 bits, by one fast sort."""
    bits = len(key).bit_length()
    if int(key.max()).bit_length() + bits > 63:
        return np.argsort(key, kind="stable")
    return np.sort((key << bits) | np.arange(len(key))) & ((1 << bits) - 1)


def _components(groups: Groups, *, samples: int, views: int) -> tuple[I64, I64]:
    """Components of samples, first by what is active, then by all that share a batch and a class."""
    group = np.repeat(np.arange(len(groups.size)), groups.size)
    active = groups.mixed | (views > 1)
    waiting = np.flatnonzero(~groups.mixed & (groups.size > 2)) if views == 1 else np.empty(0, np.int64)
    found = _joined(groups.sample, group, active, samples=samples)
    while waiting.size:
        place = np.flatnonzero(np.isin(group, waiting))
        member = np.unique(np.stack([group[place], found[groups.sample[place]]]), axis=1)[0]
        different = np.bincount(member, minlength=len(groups.size))[waiting]
        tied = waiting[(different < groups.size[waiting]) & (different > 1)]
        waiting = waiting[different == groups.size[waiting]]
        if not tied.size:
            break
        active[tied] = True
        found = _joined(groups.sample, group, active, samples=samples)
    loose = found
    if waiting.size:
        active[waiting] = True
        loose = _joined(groups.sample, group, active, samples=samples)
    there = np.zeros(samples, np.bool_)
    there[groups.sample] = True
    return np.where(there, found, -1), np.where(there, loose, -1)


def _joined(sample: I64, group: I64, active: NDArray[np.bool_], *, samples: int) -> I64:
    """Each sample's component when the samples of each active group are joined; its number is below groups + samples.

    Groups are the vertices: two are joined by a sample of both. A sample of none is a component of its own.
    """
    at = np.flatnonzero(active[group])
    sample, group = sample[at], group[at]
    first = np.full(samples, -1)
    first[sample] = group
    linked = first[sample] != group
    whole = _connected(first[sample[linked]], group[linked], vertices=len(active))
    return np.where(first >= 0, whole[first], len(active) + np.arange(samples))


def _connected(one: I64, other: I64, *, vertices: int) -> I64:
    """The component of each vertex of a graph."""
    from scipy.sparse import coo_array  # noqa: PLC0415 - scipy is slow to import
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415 - scipy is slow to import

    edges = coo_array((np.ones(len(one)), (one, other)), shape=(vertices, vertices))
    found: I64 = connected_components(edges, directed=False)[1].astype(np.int64)
    return found


def _linked(groups: Groups, *, classes: int) -> U64:
    """Bits of the pairs of classes that some batch has, one of them with an anchor, (class, word)."""
    linked = np.zeros((classes, -(-classes // 64)), np.uint64)
    own = np.arange(classes)
    linked[own, own // 64] = np.uint64(1) << (own % 64).astype(np.uint64)
    begins = np.flatnonzero(np.diff(groups.batch, prepend=-1))
    ends = np.append(begins[1:], len(groups.batch))
    if int((ends - begins).max()) <= _FEW:
        _write_pairs(linked, groups, most=int((ends - begins).max()))
        return linked
    there = np.zeros(linked.shape[1] * 64, np.bool_)
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        label, anchors = groups.label[begin:end], groups.anchors[begin:end]
        several, single = label[anchors], label[~anchors]
        there[several] = True
        if single.size and several.size:
            linked[single] |= np.packbits(there, bitorder="little").view(np.uint64)
        there[single] = True
        linked[several] |= np.packbits(there, bitorder="little").view(np.uint64)
        there[label] = False
    return linked


def _write_pairs(linked: U64, groups: Groups, *, most: int) -> None:
    """In place: the pairs of classes of batches that have few of them."""
    for apart in range(1, most):
        here = groups.batch[apart:] == groups.batch[:-apart]
        here &= groups.anchors[apart:] | groups.anchors[:-apart]
        pair = np.unique(groups.label[:-apart][here] * len(linked) + groups.label[apart:][here])
        for one, other in (np.divmod(pair, len(linked)), np.divmod(pair, len(linked))[::-1]):
            np.bitwise_or.at(linked, (one, other // 64), np.uint64(1) << (other % 64).astype(np.uint64))


def pieces(groups: Groups, graph: Graph) -> int:
    """Connected pieces of the graph of all active edges, within classes and between them."""
    part = graph.component[groups.sample[groups.start]]
    begins = np.flatnonzero(np.diff(groups.batch, prepend=-1))
    same = groups.batch[1:] == groups.batch[:-1]
    anchored = np.logical_or.reduceat(groups.anchors, begins)  # else no sample of the batch asks for anything
    same &= np.repeat(anchored, np.diff(begins, append=len(groups.batch)))[1:]
    whole = _connected(part[:-1][same], part[1:][same], vertices=int(graph.component.max()) + 1)
    return len(np.unique(whole[part]))


def parts_linked(groups: Groups, graph: Graph, class_: int) -> bool:
    """Whether each component of a class has an active edge to every other class."""
    own = np.full(int(groups.batch[-1]) + 1, -1)
    mine = np.flatnonzero(groups.label == class_)
    own[groups.batch[mine]] = mine
    beside = own[groups.batch]
    met = (beside >= 0) & (groups.label != class_) & (groups.anchors | groups.anchors[beside])
    part = graph.component[groups.sample[groups.start]]
    pair = np.unique(part[beside[met]] * len(graph.linked) + groups.label[met])
    parts, others = np.unique(pair // len(graph.linked), return_counts=True)
    return len(parts) == len(np.unique(part[mine])) and bool((others == len(graph.linked) - 1).all())
