"""Batches of m samples of each of some classes: every sample has m - 1 others of its class beside it."""

import numpy as np
from numpy.typing import ArrayLike

from deltagram.data.dealt import FullBatches
from deltagram.data.imbalance import I64, checked_labels
from deltagram.data.rounds import Draw, by_class, check_least
from deltagram.errors import SettingError


class MPerClassBatchSampler(FullBatches):
    """Lists of `batch_size` indices: `per_class` samples each of `batch_size` / `per_class` different classes.

    `batch_sampler=` of torch's DataLoader. Classes go round, so that over any number of batches no class comes twice
    more than another. A class of n samples goes through floor(n / m) m of them, m = `per_class`, in an order drawn
    anew each time, before one repeats: the samples of a batch are different. Only a class of fewer than m samples
    repeats them in a batch, each as often as any other up to one.

    (seed, epoch) say everything: call `set_epoch` before each epoch. `num_replicas` processes are dealt the
    batches of one epoch, batch i to process i mod `num_replicas`, `num_batches` to each: unless given
    ceil(samples / (batch_size num_replicas)).

    Raises SettingError for labels that are not whole numbers from 0, for one class, for a batch that is no multiple
    of `per_class` or has more classes than there are, and for settings outside their range.

    >>> sampler = MPerClassBatchSampler([0, 0, 0, 1, 1, 2, 2, 2], 4, per_class=2)
    >>> len(sampler), [len(batch) for batch in sampler]
    (2, [4, 4])
    """

    def __init__(
        self,
        labels: ArrayLike,
        batch_size: int,
        *,
        per_class: int = 2,
        num_batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        label = checked_labels(labels)
        check_least(batch_size=batch_size, per_class=per_class, num_batches=num_batches)
        super().__init__(
            samples=len(label), batch_size=batch_size, num_batches=num_batches, seed=seed, rank=rank,
            num_replicas=num_replicas,
        )  # fmt: skip
        self._members, self._counts = by_class(label)
        if batch_size % per_class:
            raise SettingError("batch_size", f"is {batch_size}", expected=f"a multiple of per_class, {per_class}")
        if batch_size // per_class > len(self._counts):
            raise SettingError(
                "batch_size", f"{batch_size} holds {batch_size // per_class} classes of {per_class}",
                expected=f"at most the {len(self._counts)} there are", fix="raise per_class or take smaller batches",
            )  # fmt: skip
        self.per_class = per_class

    def _epoch(self) -> I64:
        """The batches of an epoch for all processes, (batch, place)."""
        batches, m, classes = self.num_batches * self.num_replicas, self.per_class, len(self._counts)
        draw = Draw(name="m per class", seed=self.seed, epoch=self.epoch)
        turns = draw.turns(classes, batches, size=self.batch_size // m)
        wanted = np.bincount(turns.ravel(), minlength=classes)
        groups = np.maximum(self._counts // m, 1)  # of m samples in a round of a class
        rounds = -(-wanted // groups)
        members = self._members[draw.within(self._counts, rounds)]
        starts = np.cumsum(rounds * self._counts) - rounds * self._counts
        turn = np.arange(wanted.sum()) - np.repeat(np.cumsum(wanted) - wanted, wanted)
        number, group = np.divmod(turn, np.repeat(groups, wanted))
        count = np.repeat(self._counts, wanted)
        place = (group[:, None] * m + np.arange(m)) % count[:, None]
        samples = np.empty((turns.size, m), np.int64)
        first = np.repeat(starts, wanted) + number * count
        samples[np.argsort(turns, axis=None, kind="stable")] = members[first[:, None] + place]
        return samples.reshape(batches, self.batch_size)
