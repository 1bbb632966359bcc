"""One batch of the items of all processes of torch.distributed, with gradients that go back to where they belong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import Tensor

from deltagram.errors import SettingError
from deltagram.losses.contrastive_batch import Items

GRADIENTS: Final = ("average", "sum")


@dataclass(frozen=True, kw_only=True)
class Everyone:
    """The items of all processes: `rows` (item, feature), `label` (item); those of this one, `mine`, from `first` on.

    `leads` is true on one process, which sees to what is to be counted once.
    """

    mine: Items
    rows: Tensor
    label: Tensor
    first: int = 0
    leads: bool = True
    processes: int = 1
    group: Any = None

    @classmethod
    def alone(cls, mine: Items) -> Self:
        """Those of a single process."""
        return cls(mine=mine, rows=mine.rows, label=mine.label)

    @property
    def items(self) -> int:
        """How many there are on all processes."""
        return len(self.rows)

    def sum(self, numbers: Tensor) -> Tensor:
        """Numbers summed over the processes, without gradient."""
        if self.processes == 1:
            return numbers
        held = numbers.detach().clone()
        torch.distributed.all_reduce(held, group=self.group)
        return held


def gathered(read: Callable[[], Items], *, group: Any) -> Everyone:
    """What `read` gives on each process, as one batch in the order of ranks; batches may differ in size.

    A refusal on one process is raised on all of them, so that none waits. Raises SettingError also where processes
    have other features or dtypes. Without a process group the batch is what `read` gives.
    """
    import torch.distributed as dist  # noqa: PLC0415 - not there in every build of torch

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return Everyone.alone(read())
    fault, mine = None, None
    try:
        mine = read()
        said: Any = (len(mine.rows), mine.rows.shape[1], str(mine.rows.dtype))
    except SettingError as refusal:
        fault = said = refusal
    rank, found = dist.get_rank(group), _said_by_all(said, dist, group)
    for other, theirs in enumerate(found):
        if isinstance(theirs, SettingError):
            raise SettingError(f"process {other}", str(theirs)) from fault
    if mine is None or len({theirs[1:] for theirs in found}) > 1:
        shapes = ", ".join(f"process {other}: {theirs[1]} of {theirs[2]}" for other, theirs in enumerate(found))
        raise SettingError("embeddings", f"of other features or dtypes ({shapes})", expected="the same on each process")
    sizes = [theirs[0] for theirs in found]
    label = _whole(mine.label, sizes, group)
    gather: Any = _Gather.apply
    rows: Tensor = gather(mine.rows, sizes, rank, group)
    return Everyone(
        mine=mine, rows=rows, label=label, first=sum(sizes[:rank]), leads=rank == 0, processes=len(sizes), group=group
    )


def total(value: Tensor, everyone: Everyone, *, averaged: bool) -> Tensor:
    """The sum of `value` over processes. Its gradient is that of the own part, times their number if `averaged`.

    DistributedDataParallel divides what the processes' gradients sum to by their number.
    """
    if everyone.processes == 1:
        return value
    summed: Any = _Total.apply
    found: Tensor = summed(value, everyone, everyone.processes if averaged else 1)
    return found


def _said_by_all(mine: Any, dist: Any, group: Any) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, mine, group=group)
    return found


def _whole(part: Tensor, sizes: list[int], group: Any) -> Tensor:
    """Parts of so many rows, of all processes, one after the other."""
    padded = part.new_zeros(max(sizes), *part.shape[1:])
    padded[: len(part)] = part
    found = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(found, padded, group=group)
    return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])


class _Gather(torch.autograd.Function):
    """Rows of all processes; back, what all of them have to say to the rows of this one."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], rank: int, group: Any) -> Tensor:
        ctx.own, ctx.group = slice(sum(sizes[:rank]), sum(sizes[: rank + 1])), group
        return _whole(rows.contiguous(), sizes, group)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        held = grad.contiguous().clone()
        torch.distributed.all_reduce(held, group=ctx.group)
        return held[ctx.own], None, None, None


class _Total(torch.autograd.Function):
    """A sum over processes, of which each differentiates its own part, times a factor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, everyone: Everyone, factor: int) -> Tensor:
        ctx.factor = factor
        return everyone.sum(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.factor, None, None
