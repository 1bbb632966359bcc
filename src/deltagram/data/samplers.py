"""Batches that hold all classes in equal number, for torch's DataLoader and whatever takes lists of indices."""

import numpy as np
from numpy.typing import ArrayLike

from deltagram.data.dealt import FullBatches
from deltagram.data.imbalance import I64, checked_labels
from deltagram.data.rounds import Draw, by_class, check_least


class ClassBalancedBatchSampler(FullBatches):
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
        check_least(batch_size=batch_size, num_batches=num_batches)
        super().__init__(
            samples=len(label), batch_size=batch_size, num_batches=num_batches, seed=seed, rank=rank,
            num_replicas=num_replicas,
        )  # fmt: skip
        self._members, self._counts = by_class(label)

    def _epoch(self) -> I64:
        """The batches of an epoch for all processes, (batch, place)."""
        batches, classes = self.num_batches * self.num_replicas, len(self._counts)
        draw = Draw(name="class-balanced batches", seed=self.seed, epoch=self.epoch)
        each, rest = divmod(self.batch_size, classes)
        always = np.broadcast_to(np.repeat(np.arange(classes), each), (batches, each * classes))
        place = np.hstack([always, draw.turns(classes, batches, size=rest)])
        place = np.take_along_axis(place, draw.orders("places", *place.shape), axis=1)
        samples, wanted = np.empty(place.size, np.int64), np.bincount(place.ravel(), minlength=classes)
        samples[np.argsort(place, axis=None, kind="stable")] = self._samples(draw, wanted)
        return samples.reshape(place.shape)

    def _samples(self, draw: Draw, wanted: I64) -> I64:
        """Samples of the first class, then of the next; of each as many as wanted, in rounds of all of its samples."""
        rounds = -(-wanted // self._counts)
        made = rounds * self._counts
        rank = np.arange(made.sum()) - np.repeat(np.cumsum(made) - made, made)
        chosen: I64 = self._members[draw.within(self._counts, rounds)][rank < np.repeat(wanted, made)]
        return chosen
