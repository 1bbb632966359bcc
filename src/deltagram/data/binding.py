"""Batches that hold the same few examples of each class: what is learnt in one batch then holds in all."""

from collections.abc import Iterator
from itertools import count, repeat
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from deltagram.data.dealt import Dealt
from deltagram.data.imbalance import I64, checked_labels
from deltagram.data.ownbatches import Batches, OwnBatches, checked_indices
from deltagram.data.rounds import Draw, by_class, check_least
from deltagram.errors import SettingError

ROTATE: Final = (False, "epoch", "batch")
DUPLICATES: Final = ("skip", "keep")
_DRAWN = 1 << 20  # random words at once


class BindingBatchSampler(Dealt):
    """Batches, and in each of them `per_class` bound examples of every class (arXiv 2306.07960, section 5.2).

    `batch_sampler=` of torch's DataLoader. A batch is its own samples and, at its end, the bound ones, class after
    class. Bound examples are drawn once by `seed`; with `rotate="epoch"` once an epoch (a class goes through all its
    samples before one returns), with `rotate="batch"` for each batch: a fresh random example of each class, which is
    no binding and its control. `examples` takes the place of what would be drawn: the samples to bind.
    A class of fewer samples than `per_class` has all of them bound.

    Own samples are `batch_size` of a partition that is drawn each epoch (`batches="shuffled"`) or once ("fixed"), or
    what any batch sampler yields (then `batch_size` is left out). One that is bound already is not repeated, so that
    batches are of at most `batch_size` and the bound; `duplicates="keep"` repeats it, as the paper's code does.

    (seed, epoch) say everything: call `set_epoch` before each epoch, or all are the same; a sampler inside is told,
    too. With `num_replicas` processes each gets every `num_replicas`-th batch, all as many: the first are dealt once
    more where they do not come out even, or, with `drop_last`, the last left out. The bound examples are in the
    batches of each process. Accelerate and Trainer deal batches themselves: leave rank and num_replicas.

    Raises SettingError for labels that are not whole numbers from 0, for one class, for batches smaller than what is
    to be bound, and for settings outside their range.

    >>> list(BindingBatchSampler([0, 0, 0, 0, 1, 1], batches=[[0, 1], [2, 3]], examples=[0, 4]))
    [[1, 0, 4], [2, 3, 0, 4]]
    """

    def __init__(
        self,
        labels: ArrayLike,
        batch_size: int | None = None,
        *,
        per_class: int = 1,
        rotate: Literal[False, "epoch", "batch"] = False,
        examples: ArrayLike | None = None,
        batches: str | Batches = "shuffled",
        duplicates: Literal["skip", "keep"] = "skip",
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        label = checked_labels(labels)
        check_least(per_class=per_class)
        if rotate not in ROTATE:
            raise SettingError("rotate", f"{rotate!r} is unknown", expected="False, epoch or batch")
        if duplicates not in DUPLICATES:
            raise SettingError("duplicates", f"{duplicates!r} is unknown", expected=" or ".join(DUPLICATES))
        self._own = OwnBatches(
            samples=len(label), size=batch_size, batches=batches, drop_last=drop_last, seed=seed, rank=rank,
            num_replicas=num_replicas,
        )  # fmt: skip
        self._members, self._counts = by_class(label)
        self._wanted = np.minimum(self._counts, per_class)
        self._examples = None if examples is None else checked_indices("examples", examples, samples=len(label))
        if self._examples is not None and rotate:
            raise SettingError("rotate", f"is {rotate}, and the examples are given", expected="False")
        bound = int(self._wanted.sum()) if self._examples is None else len(self._examples)
        size = getattr(batches, "batch_size", None) if batch_size is None else batch_size
        if size is not None and size < bound:
            raise SettingError(
                "batch_size", f"is {size}", expected=f"at least {bound}, the examples to bind to each batch",
                fix="take larger batches, or bind fewer by `examples`",
            )  # fmt: skip
        self.per_class, self.rotate, self.duplicates, self.drop_last = per_class, rotate, duplicates, drop_last
        super().__init__(seed=seed, rank=rank, num_replicas=num_replicas)

    def __len__(self) -> int:
        return len(self._own)

    def __iter__(self) -> Iterator[list[int]]:
        there = np.zeros(len(self._members), np.bool_)
        for samples, bound in zip(self._own.of(self.epoch), self._bound(), strict=False):
            own = samples
            if self.duplicates == "skip":
                there[bound] = True
                own = samples[~there[samples]]
                there[bound] = False
            yield own.tolist() + bound.tolist()

    @property
    def bound(self) -> list[int]:
        """The examples in every batch of this epoch, class after class; with `rotate="batch"` those of the first."""
        bound: list[int] = next(self._bound()).tolist()
        return bound

    def _bound(self) -> Iterator[I64]:
        """What is bound to each batch of this process and epoch, one after another and without end."""
        if self._examples is not None:
            yield from repeat(self._examples)
            return
        fresh = self.rotate == "batch"
        draw = Draw(name="binding", seed=self.seed, epoch=self.epoch if fresh else 0)
        orders = self._members[draw.within(self._counts, np.ones_like(self._counts))]
        if fresh:
            for first in self._firsts(draw):
                yield self._from(orders, first)
        walked = self.epoch * self.per_class % self._counts if self.rotate else np.zeros_like(self._counts)
        yield from repeat(self._from(orders, walked))

    def _from(self, orders: I64, first: I64) -> I64:
        """Of each class the samples from place `first` of its order on, round its end, as many as wanted."""
        class_ = np.repeat(np.arange(len(self._counts)), self._wanted)
        number = np.arange(len(class_)) - np.repeat(np.cumsum(self._wanted) - self._wanted, self._wanted)
        starts = np.cumsum(self._counts) - self._counts
        found: I64 = orders[starts[class_] + (first[class_] + number) % self._counts[class_]]
        return found

    def _firsts(self, draw: Draw) -> Iterator[I64]:
        """A place in each class, drawn for each batch of this process."""
        classes = len(self._counts)
        rows = min(max(1, _DRAWN // (classes * self.num_replicas)), len(self)) * self.num_replicas
        for start in count(0, rows):
            word = draw.words("places", rows * classes, first=start * classes).reshape(rows, classes)[
                self.rank :: self.num_replicas
            ]
            yield from (word.astype(np.uint64) * self._counts.astype(np.uint64) >> np.uint64(32)).astype(np.int64)
