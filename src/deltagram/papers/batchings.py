"""Batches that decide what the supervised contrastive loss has for minimisers, by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from deltagram.arrays import F64
from deltagram.data import BindingBatchSampler, EnlargedBatchSampler
from deltagram.data.audit import epochs_of
from deltagram.data.imbalance import I64
from deltagram.data.ownbatches import OwnBatches

Batches = list[list[int]]


@dataclass
class Partition:
    """A batch sampler of partitions, drawn each epoch ("shuffled") or once ("fixed"), to which nothing is added."""

    samples: int
    size: int
    kind: str
    seed: int
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of this epoch from now on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        own = OwnBatches(
            samples=self.samples, size=self.size, batches=self.kind, drop_last=False, seed=self.seed, rank=0,
            num_replicas=1,
        )  # fmt: skip
        for batch in own.of(self.epoch):
            yield batch.tolist()


def sampler(name: str, label: I64, *, size: int, seed: int) -> Any:
    """A batch sampler: "fixed" or "reshuffled" batches, "+binding", "+random" or "+fresh", one extra sample a class.

    Random ones are drawn from all samples, fresh ones are another of every class for each batch.
    """
    kind, _, added = name.partition("+")
    batches = "fixed" if kind == "fixed" else "shuffled"
    if not added:
        return Partition(samples=len(label), size=size, kind=batches, seed=seed)
    if added == "random":
        extra = len(np.unique(label))
        return EnlargedBatchSampler(label, size, extra=extra, batches=batches, seed=seed)
    return BindingBatchSampler(
        label, size, batches=batches, rotate="batch" if added == "fresh" else False, seed=seed
    )  # fmt: skip


def case(name: str, label: I64, *, seed: int) -> Batches:
    """Fixed batches of few samples, by name; with "+binding" the first sample of each class is in all of them."""
    kind, _, added = name.partition("+")
    found = CASES[kind](label, seed)
    if added == "binding":
        first = np.unique(label, return_index=True)[1].tolist()
        found = [[*(i for i in batch if i not in first), *first] for batch in found]
    return found


def _halves(label: I64, seed: int) -> Batches:  # noqa: ARG001 - the interface: nothing is drawn
    """Half of each class in either batch."""
    place = _within(label)
    return [np.flatnonzero(place % 2 == half).tolist() for half in range(2)]


def _one_split(label: I64, seed: int) -> Batches:  # noqa: ARG001
    """Every class whole in both batches, but the first, of which each has half."""
    place, split = _within(label), label == 0
    return [np.flatnonzero(~split | (place % 2 == half)).tolist() for half in range(2)]


def _apart(label: I64, seed: int) -> Batches:  # noqa: ARG001
    """All of all classes but the last, and all but the first, so that these two never meet."""
    return [np.flatnonzero(label != out).tolist() for out in (label.max(), label.min())]


def _random(label: I64, seed: int) -> Batches:
    """A partition into four."""
    return epochs(label, 1, size=-(-len(label) // 4), seed=seed)


def _pure(label: I64, seed: int) -> Batches:  # noqa: ARG001
    """A class each."""
    return [np.flatnonzero(label == c).tolist() for c in np.unique(label)]


def epochs(label: I64, many: int, *, size: int, seed: int) -> Batches:
    """So many partitions, each drawn anew."""
    return [
        list(batch) for batch in epochs_of(Partition(samples=len(label), size=size, kind="shuffled", seed=seed), many)
    ]


def _reshuffled(many: int) -> Callable[[I64, int], Batches]:
    return lambda label, seed: epochs(label, many, size=-(-len(label) // 4), seed=seed)


CASES: Final[Mapping[str, Callable[[I64, int], Batches]]] = {
    "full": lambda label, _: [list(range(len(label)))], "halves": _halves, "one-split": _one_split, "apart": _apart,
    "random": _random, "pure": _pure, "1-epoch": _reshuffled(1), "2-epochs": _reshuffled(2), "8-epochs": _reshuffled(8),
}  # fmt: skip


def _within(label: I64) -> I64:
    """The number of each sample in its class, from 0."""
    counts = np.bincount(label)
    order = np.argsort(label, kind="stable")
    found = np.empty_like(label)
    found[order] = np.arange(len(label)) - np.repeat(np.cumsum(counts) - counts, counts)
    return found


def with_positives(batches: Sequence[Sequence[int]], label: I64) -> Batches:
    """Batches that have two samples of a class: in others no sample has a positive, and there is no loss."""
    return [list(batch) for batch in batches if np.bincount(label[list(batch)]).max() > 1]


def interpolated(at: F64, epochs: Sequence[int], values: Sequence[float]) -> F64:
    """Values between epochs, linear in their logarithms."""
    found: F64 = np.interp(np.log(at), np.log(np.asarray(epochs, np.float64)), np.asarray(values, np.float64))
    return found
