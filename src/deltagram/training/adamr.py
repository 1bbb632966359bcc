"""The arithmetic of one AdamR step, Eq. (3) of arXiv 2410.09344: one tensor at a time, and many at once.

Both update the moments of all parameters before any parameter moves, since the strength of the pull depends on
the mean of the bias-corrected second moment over all of them. The single-tensor functions are the equation; the
foreach functions do the same in buckets that fit a processor's cache, or an accelerator's launch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Rows = Sequence[tuple[Tensor, ...]]

_BUCKET = {"cpu": 1 << 18}
_BUCKET_ELSEWHERE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Parameters with gradients that share settings and a step number `t`, on one device and of one dtype.

    `reference` gives a parameter's reference.
    """

    group: dict[str, Any]
    t: int
    params: list[Tensor]
    grads: list[Tensor]
    exp_avg: list[Tensor]
    exp_avg_sq: list[Tensor]
    reference: Callable[[Tensor], Tensor]

    @property
    def corrections(self) -> tuple[float, float]:
        """Bias corrections of the two moments."""
        beta1, beta2 = self.group["betas"]
        return 1 - beta1**self.t, 1 - beta2**self.t


def moments_single(batch: Batch) -> float:
    """Update both moments; returns the sum of the bias-corrected second one."""
    beta1, beta2 = batch.group["betas"]
    total = 0.0
    for grad, m, v in zip(batch.grads, batch.exp_avg, batch.exp_avg_sq, strict=True):
        m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        total += float(v.double().sum())
    return total / batch.corrections[1]


def move_single(batch: Batch, pull_by: float) -> None:
    """Move the parameters: L2 pull by the share `pull_by`, Adam's step, then the L1 threshold `pull_by` (0: none)."""
    first, second = batch.corrections
    lr, eps, pull = float(batch.group["lr"]), batch.group["eps"], batch.group["pull"]
    for param, m, v in zip(batch.params, batch.exp_avg, batch.exp_avg_sq, strict=True):
        reference = batch.reference(param).to(param) if pull_by else None
        if reference is not None and pull == "l2":
            param.lerp_(reference, pull_by)
        param.addcdiv_(m, v.sqrt().div_(second**0.5).add_(eps), value=-lr / first)
        if reference is not None and pull == "l1":
            delta = param - reference
            param.copy_(reference + (delta - delta.clamp(-pull_by, pull_by)))


def moments_foreach(batch: Batch, *, measured: bool) -> float:
    """As `moments_single`, in buckets; zero unless `measured`.

    A piece is summed in float32, pairwise, and the pieces in float64: summing in float64 would copy every piece.
    """
    beta1, beta2 = batch.group["betas"]
    totals = []
    for grads, m, v in _buckets(zip(batch.grads, batch.exp_avg, batch.exp_avg_sq, strict=True)):
        torch._foreach_lerp_(m, grads, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - beta2)
        if measured:
            totals += [part.sum(dtype=torch.promote_types(part.dtype, torch.float32)) for part in v]
    return sum(torch.stack(totals).tolist()) / batch.corrections[1] if totals else 0.0


def move_foreach(batch: Batch, pull_by: float) -> None:
    """As `move_single`, in buckets."""
    first, second = batch.corrections
    lr, eps, pull = float(batch.group["lr"]), batch.group["eps"], batch.group["pull"]
    room = _Room()
    for params, m, v, *reference in _buckets(_movable(batch, pulled=pull_by != 0)):
        towards = [part.to(param) for part, param in zip(*reference, params, strict=True)] if reference else []
        if towards and pull == "l2":
            torch._foreach_lerp_(params, towards, pull_by)
        root = room.copy(v)
        torch._foreach_sqrt_(root)
        torch._foreach_div_(root, second**0.5)
        torch._foreach_add_(root, eps)
        torch._foreach_addcdiv_(params, m, root, -lr / first)
        if towards and pull == "l1":
            torch._foreach_sub_(params, towards)
            clamped = room.copy(params)
            torch._foreach_clamp_max_(clamped, pull_by)
            torch._foreach_clamp_min_(clamped, -pull_by)
            torch._foreach_sub_(params, clamped)
            torch._foreach_add_(params, towards)


class _Room:
    """Memory for one bucket, used again by the next: asking the system for it takes longer than a square root."""

    def __init__(self) -> None:
        self._flat: Tensor | None = None

    def copy(self, tensors: list[Tensor]) -> list[Tensor]:
        """Copies, valid until the next call."""
        sizes = [tensor.numel() for tensor in tensors]
        if self._flat is None or self._flat.numel() < sum(sizes):
            self._flat = tensors[0].new_empty(sum(sizes))
        parts = torch.split(self._flat[: sum(sizes)], sizes)
        room = [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
        torch._foreach_copy_(room, tensors)
        return room


def _movable(batch: Batch, *, pulled: bool) -> Iterator[tuple[Tensor, ...]]:
    """Parameter, moments and, where there is a pull, reference; each asked for when its turn comes."""
    for param, m, v in zip(batch.params, batch.exp_avg, batch.exp_avg_sq, strict=True):
        yield (param, m, v, batch.reference(param)) if pulled else (param, m, v)


def _buckets(rows: Iterable[tuple[Tensor, ...]]) -> Iterator[list[list[Tensor]]]:
    """Columns of tensors of a few entries: large ones cut, small ones together."""
    held: list[tuple[Tensor, ...]] = []
    count = 0
    for row in rows:
        size = _BUCKET.get(row[0].device.type, _BUCKET_ELSEWHERE)
        for pieces in _cut(row, size):
            held.append(pieces)
            count += pieces[0].numel()
            if count >= size:
                yield [list(column) for column in zip(*held, strict=True)]
                held, count = [], 0
    if held:
        yield [list(column) for column in zip(*held, strict=True)]


def _cut(row: tuple[Tensor, ...], size: int) -> Iterable[tuple[Tensor, ...]]:
    """Tensors of one shape in flat pieces of at most `size` entries; whole where memory is not in that order."""
    if row[0].numel() <= size or not all(tensor.is_contiguous() for tensor in row[:3]):
        return (row,)
    return zip(*(torch.split(tensor.reshape(-1), size) for tensor in row), strict=True)
