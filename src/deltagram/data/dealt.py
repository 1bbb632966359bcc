"""What all batch samplers here have in common: an epoch that they are told, and processes that batches are dealt to."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

from deltagram.data.imbalance import I64
from deltagram.data.rounds import check_ranks


class Dealt:
    """State of a batch sampler whose batches follow from (seed, epoch), dealt to `num_replicas` processes.

    Raises SettingError for a rank that there is not.
    """

    def __init__(self, *, seed: int, rank: int, num_replicas: int) -> None:
        check_ranks(rank, num_replicas)
        self.seed, self.rank, self.num_replicas, self.epoch = seed, rank, num_replicas, 0

    @property
    def sampler(self) -> Self:
        """Itself: what accelerate calls `set_epoch` of when it has wrapped a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of this epoch from now on."""
        self.epoch = epoch


class FullBatches(Dealt, ABC):
    """Batches that are all full: `_epoch` draws those of all processes, `num_batches` of them for each.

    `num_batches` makes an epoch as long as the data unless given: ceil(samples / (batch_size num_replicas)).
    """

    drop_last = False  # every batch is full

    def __init__(
        self, *, samples: int, batch_size: int, num_batches: int | None, seed: int, rank: int, num_replicas: int
    ) -> None:
        super().__init__(seed=seed, rank=rank, num_replicas=num_replicas)
        self.batch_size = batch_size
        self.num_batches = -(-samples // (batch_size * num_replicas)) if num_batches is None else num_batches

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._epoch()[self.rank :: self.num_replicas]:
            yield batch.tolist()

    @abstractmethod
    def _epoch(self) -> I64:
        """The batches of an epoch for all processes, (batch, place)."""
