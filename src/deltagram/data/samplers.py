"""Batches that hold all classes in equal number, for torch's DataLoader and whatever takes lists of indices."""

from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from deltagram.data.imbalance import I64, checked_labels
from deltagram.errors import SettingError
from deltagram.seeds import U32, key, words


class ClassBalancedBatchSampler:
    """Lists of indices of samples in which class counts differ by at most one; small classes repeat.

    `batch_sampler=` of torch's DataLoader. Of B = `batch_size` places in a batch each of the K classes in `labels` has
    floor(B / K), and B mod K classes have one more: these go round, so that over any number of batches class totals,
    too, differ by at most one. A class goes through all its samples, in an order drawn anew each time, before one
    of them repeats.

    Everything follows from (seed, epoch): call `set_epoch` before each epoch, or all are the same. With `num_replicas`
    processes the batches of one epoch are dealt out, batch i to process i mod `num_replicas`: each process gets
    `num_batches`, and all of them together what one process of as many batches would get. `num_batches` makes an
    epoch as long as the data unless given: ceil(samples / (B num_replicas)). Under accelerate or Trainer, which deal
    out batches themselves, leave rank and num_replicas as they are.

    Raises SettingError for labels that are not whole numbers from 0, for one class, and for settings outside
    their range.
    """

    drop_last = False  # every batch is full

    def __init__(
        self,
        labels: ArrayLike,
        batch_size: int,
        *,
        num_batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        label = checked_labels(labels)
        for name, value in (("batch_size", batch_size), ("num_replicas", num_replicas), ("num_batches", num_batches)):
            if value is not None and value < 1:
                raise SettingError(name, f"is {value}", expected="1 or more")
        if not 0 <= rank < num_replicas:
            raise SettingError("rank", f"is {rank}", expected=f"0 to {num_replicas - 1}")
        self._members: I64 = np.argsort(label, kind="stable")  # class after class
        self._counts: I64 = np.unique(label, return_counts=True)[1]
        if len(self._counts) < 2:
            raise SettingError("labels", f"are all {label[0]}", expected="2 classes or more")
        self.batch_size = batch_size
        self.num_batches = -(-len(label) // (batch_size * num_replicas)) if num_batches is None else num_batches
        self.seed, self.rank, self.num_replicas, self.epoch = seed, rank, num_replicas, 0

    @property
    def sampler(self) -> Self:
        """Itself: what accelerate calls `set_epoch` of when it has wrapped a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of this epoch from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._epoch()[self.rank :: self.num_replicas]:
            yield batch.tolist()

    def _epoch(self) -> I64:
        """The batches of an epoch for all processes, (batch, place)."""
        batches = self.num_batches * self.num_replicas
        each, rest = divmod(self.batch_size, len(self._counts))
        always = np.broadcast_to(np.repeat(np.arange(len(self._counts)), each), (batches, each * len(self._counts)))
        place = np.hstack([always, self._turns(batches, rest)])
        place = np.take_along_axis(place, self._orders("places", *place.shape), axis=1)
        samples, wanted = np.empty(place.size, np.int64), np.bincount(place.ravel(), minlength=len(self._counts))
        samples[np.argsort(place, axis=None, kind="stable")] = self._draws(wanted)
        return samples.reshape(place.shape)

    def _turns(self, batches: int, size: int) -> I64:
        """`size` different classes a batch, each class as often as any other up to one, (batch, size).

        Rounds of all classes, each in an order of its own, are laid end to end and cut into batches. A batch that
        begins in one round and ends in the next takes from the second what it does not have from the first.
        """
        classes = len(self._counts)
        rounds = -(-batches * size // classes)
        drawn = self._orders("rounds", rounds, classes)
        others = self._orders("rests of rounds", rounds, classes) if size and classes % size else drawn
        for number in range(1, rounds):
            begun = number * classes % size
            if begun:
                there = np.zeros(classes, np.bool_)
                there[drawn[number - 1, classes - begun :]] = True
                first = drawn[number][~there[drawn[number]]][: size - begun]
                there[:] = False
                there[first] = True
                drawn[number] = np.concatenate([first, others[number][~there[others[number]]]])
        turns: I64 = drawn.ravel()[: batches * size].reshape(batches, size)
        return turns

    def _draws(self, wanted: I64) -> I64:
        """Samples of the first class, then of the next; of each as many as wanted, in rounds of all of its samples."""
        rounds = -(-wanted // self._counts)
        sizes = np.repeat(self._counts, rounds)
        starts = np.repeat(np.cumsum(self._counts) - self._counts, rounds)
        group = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
        within = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        order = np.argsort(group << np.uint64(32) | self._words("samples", len(group)), kind="stable")
        drawn = self._members[(np.repeat(starts, sizes) + within)[order]]
        made = rounds * self._counts
        rank = np.arange(len(group)) - np.repeat(np.cumsum(made) - made, made)
        chosen: I64 = drawn[rank < np.repeat(wanted, made)]
        return chosen

    def _orders(self, what: str, rows: int, size: int) -> I64:
        """Orders of `size` things, drawn, (row, size)."""
        return np.argsort(self._words(what, rows * size).reshape(rows, size), axis=1, kind="stable")

    def _words(self, what: str, count: int) -> U32:
        return words(key(self.seed, f"class-balanced batches/{self.epoch}/{what}"), 0, count)
