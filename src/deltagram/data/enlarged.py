"""Batches enlarged by random samples: the control for batch size that a comparison with bound batches needs."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from deltagram.data.dealt import Dealt
from deltagram.data.imbalance import checked_labels
from deltagram.data.ownbatches import Batches, OwnBatches
from deltagram.data.rounds import Draw, check_least
from deltagram.errors import SettingError


class EnlargedBatchSampler(Dealt):
    """Batches, and at the end of each `extra` samples drawn from all others, without regard to their classes.

    Takes and deals batches as `BindingBatchSampler` does: with as many `extra` as classes it makes steps of the same
    number and size, in which nothing is bound. Extra samples come in turn from one order of all, drawn each epoch.
    Samples of a batch are different where its own are. Raises SettingError where a batch and its extra samples are
    more than there are.

    >>> sampler = EnlargedBatchSampler([0, 0, 0, 1, 1, 1], 2, extra=2)
    >>> [len(set(batch)) for batch in sampler]
    [4, 4, 4]
    """

    def __init__(
        self,
        labels: ArrayLike,
        batch_size: int | None = None,
        *,
        extra: int,
        batches: str | Batches = "shuffled",
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        self._samples = len(checked_labels(labels))
        check_least(extra=extra)
        self._own = OwnBatches(
            samples=self._samples, size=batch_size, batches=batches, drop_last=drop_last, seed=seed, rank=rank,
            num_replicas=num_replicas,
        )  # fmt: skip
        self._check(batch_size or 0, extra)
        self.extra, self.drop_last = extra, drop_last
        super().__init__(seed=seed, rank=rank, num_replicas=num_replicas)

    def __len__(self) -> int:
        return len(self._own)

    def __iter__(self) -> Iterator[list[int]]:
        order = Draw(name="enlarged batches", seed=self.seed, epoch=self.epoch).order("extra", self._samples)
        there = np.zeros(self._samples, np.bool_)
        for step, own in enumerate(self._own.of(self.epoch)):
            self._check(len(own), self.extra)
            start = (self.rank + step * self.num_replicas) * self.extra
            place = np.arange(start, start + self.extra + len(own))
            near = order.take(place, mode="wrap")
            there[own] = True
            others = near[~there[near]][: self.extra]
            there[own] = False
            yield own.tolist() + others.tolist()

    def _check(self, own: int, extra: int) -> None:
        if own + extra > self._samples:
            found = f"is {extra}, and with a batch of {own} more than the {self._samples} samples there are"
            raise SettingError("extra", found, expected=f"at most {max(self._samples - own, 0)}")
