"""The batches that others are added to: a partition drawn each epoch, one drawn for good, or any batch sampler's."""

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from deltagram.data.imbalance import I64
from deltagram.data.rounds import Draw, check_least, check_ranks
from deltagram.errors import SettingError

KINDS: Final = ("shuffled", "fixed")


@runtime_checkable
class Batches(Sized, Iterable[Any], Protocol):
    """What has a length and yields batches of indices: a list of lists, torch's BatchSampler, ours."""


@dataclass(frozen=True, kw_only=True)
class OwnBatches:
    """Batches of the indices 0 to `samples` - 1, dealt to `num_replicas` processes.

    `batches` is "shuffled" (a partition drawn anew each epoch), "fixed" (one partition, the same in each epoch) or a
    batch sampler, which brings its own sizes: `size` is then None. Batch i goes to process i mod `num_replicas`.
    All processes get as many: where batches do not come out even, the first of the epoch are dealt once more, or,
    with `drop_last`, the last are left out. `drop_last` leaves out an incomplete last batch, too.
    """

    samples: int
    size: int | None
    batches: str | Batches
    drop_last: bool
    seed: int
    rank: int
    num_replicas: int

    def __post_init__(self) -> None:
        check_ranks(self.rank, self.num_replicas)
        check_least(batch_size=self.size)
        known = " or ".join((*KINDS, "a batch sampler that has a length"))
        if isinstance(self.batches, str):
            if self.batches not in KINDS:
                raise SettingError("batches", f"{self.batches!r} is unknown", expected=known)
            if self.size is None:
                raise SettingError("batch_size", "is not given", expected="the samples of a batch")
        elif not isinstance(self.batches, Batches):
            raise SettingError("batches", f"are of type {type(self.batches).__name__}", expected=known)
        elif self.size is not None:
            raise SettingError("batch_size", f"is {self.size}, and the batches given have sizes of their own",
                               expected="None")  # fmt: skip
        if not self._total() and not self.drop_last:
            raise SettingError("batches", "are none", expected="one or more")
        if not len(self):
            found = f"leaves none of {self._total()} batches for each of {self.num_replicas} processes"
            raise SettingError("drop_last", found, expected="1 or more", fix="take smaller batches, or keep the last")

    def _total(self) -> int:
        """Batches of an epoch for all processes, before they are made even."""
        if not isinstance(self.batches, str):
            return len(self.batches)
        size = self.size or 1
        return self.samples // size if self.drop_last else -(-self.samples // size)

    def __len__(self) -> int:
        total = self._total()
        return total // self.num_replicas if self.drop_last else -(-total // self.num_replicas)

    def of(self, epoch: int) -> Iterator[I64]:
        """This process's batches of an epoch."""
        if isinstance(self.batches, str):
            drawn_in = epoch if self.batches == "shuffled" else 0
            draw = Draw(name=f"{self.batches} batches", seed=self.seed, epoch=drawn_in)
            order, size, total = draw.order("samples", self.samples), self.size or 1, self._total()
            for number in self._numbers():
                start = number % total * size
                yield order[start : start + size]
            return
        announce(self.batches, epoch)
        if self.num_replicas == 1:
            yield from (self._checked(batch) for batch in self.batches)
            return
        every = list(self.batches)
        for number in self._numbers():
            yield self._checked(every[number % len(every)])

    def _numbers(self) -> range:
        return range(self.rank, self.rank + len(self) * self.num_replicas, self.num_replicas)

    def _checked(self, batch: Any) -> I64:
        return checked_indices("a batch", batch, samples=self.samples)


def checked_indices(where: str, indices: Any, *, samples: int) -> I64:
    """Indices of samples as int64, one or more; SettingError, which names `where`, unless that is what they are."""
    found = np.asarray(indices)
    expected = "indices of samples, one or more"
    if not found.size:
        raise SettingError(where, "has no samples", expected=expected)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise SettingError(where, f"has shape {found.shape} and type {found.dtype}", expected=expected)
    wrong = (found < 0) | (found >= samples)
    if wrong.any():
        raise SettingError(where, f"holds sample {found[wrong][0]}", expected=f"0 to {samples - 1}")
    return found.astype(np.int64)


def announce(batches: object, epoch: int) -> None:
    """Tell a sampler, or the one that it makes batches of, which epoch begins, if either wants to know."""
    for part in (batches, getattr(batches, "sampler", None)):
        tell = getattr(part, "set_epoch", None)
        if tell is not None:
            tell(epoch)
            return
