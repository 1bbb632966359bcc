"""What all batch samplers here have in common: an epoch that they are told, and processes that batches are dealt to."""

from typing import Self

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
