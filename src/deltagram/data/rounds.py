"""Random orders for batches: all from (seed, what is drawn, epoch), nothing from what was drawn before."""

from dataclasses import dataclass

import numpy as np

from deltagram.arrays import U32
from deltagram.data.imbalance import I64
from deltagram.errors import SettingError
from deltagram.seeds import key, words

_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The random numbers of one epoch of a sampler, `name`."""

    name: str
    seed: int
    epoch: int

    def words(self, what: str, count: int, *, first: int = 0) -> U32:
        """`count` random words, from word `first` on, of the stream that each `what` has of its own."""
        return words(key(self.seed, f"{self.name}/{self.epoch}/{what}"), first, first + count)

    def orders(self, what: str, rows: int, size: int) -> I64:
        """Orders of `size` things, drawn, (row, size)."""
        return np.argsort(self.words(what, rows * size).reshape(rows, size), axis=1, kind="stable")

    def order(self, what: str, size: int) -> I64:
        """One order of `size` things, fewer than 2^32; as `orders` of one row, and faster for many things."""
        tagged = (self.words(what, size).astype(np.uint64) << _HALF) | np.arange(size, dtype=np.uint64)
        return (np.sort(tagged) & _LOW).astype(np.int64)

    def turns(self, classes: int, batches: int, *, size: int) -> I64:
        """`size` different classes a batch, each class as often as any other up to one, (batch, size).

        Rounds of all classes, each in an order of its own, are laid end to end and cut into batches. A batch that
        begins in one round and ends in the next takes from the second what it does not have from the first.
        """
        rounds = -(-batches * size // classes)
        drawn = self.orders("rounds", rounds, classes)
        others = self.orders("rests of rounds", rounds, classes) if size and classes % size else drawn
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

    def within(self, counts: I64, rounds: I64) -> I64:
        """Orders of the members of each class, as many as its `rounds`: of the first class, of the next; flat.

        Members are numbered class after class, as `counts` says.
        """
        sizes = np.repeat(counts, rounds)
        starts = np.repeat(np.cumsum(counts) - counts, rounds)
        group = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
        place = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        order = np.argsort(group << _HALF | self.words("samples", len(group)), kind="stable")
        found: I64 = (np.repeat(starts, sizes) + place)[order]
        return found


def check_least(**values: int | None) -> None:
    """SettingError for a setting below 1; None is one that was not given."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise SettingError(name, f"is {value}", expected="1 or more")


def check_ranks(rank: int, num_replicas: int) -> None:
    """SettingError for a rank that is none of `num_replicas` processes."""
    check_least(num_replicas=num_replicas)
    if not 0 <= rank < num_replicas:
        raise SettingError("rank", f"is {rank}", expected=f"0 to {num_replicas - 1}")


def check_classes(label: I64) -> None:
    """SettingError for labels that are all the same."""
    if (label == label[0]).all():
        raise SettingError("labels", f"are all {label[0]}", expected="2 classes or more")


def by_class(label: I64) -> tuple[I64, I64]:
    """Samples, class after class, and how many each class has that has any; SettingError for one class."""
    check_classes(label)
    counts = np.unique(label, return_counts=True)[1]
    return np.argsort(label, kind="stable").astype(np.int64), counts.astype(np.int64)
