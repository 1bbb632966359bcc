"""The log-sum-exp of each anchor's similarities, a tile of anchors at a time: memory of batch x tile, not batch^2."""

from typing import Any

import torch
from torch import Tensor

from deltagram.losses.contrastive_halves import halved_lse, in_halves
from deltagram.losses.contrastive_pairs import Pairs, plain_lse, tile_rows


def tiled_lse(keys: Tensor, pairs: Pairs, coefficient: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """`plain_lse`, and, given `coefficient` (anchor), the gradient of sum coefficient_i lse_i by the keys.

    With p_ij the share of key j in anchor i's sum, anchor i gets coefficient_i / temperature sum_j p_ij key_j, and
    key j gets coefficient_i / temperature p_ij anchor_i: both of one tile of exponentials, which are never divided
    by their sums, as a factor to the short side does it.
    """
    if in_halves(keys, pairs):
        return halved_lse(keys, pairs, coefficient)
    lse = keys.new_empty(pairs.last - pairs.first)
    gradient = None if coefficient is None else torch.zeros_like(keys)
    tile = min(pairs.tile or tile_rows(keys), max(1, len(lse)))
    buffer = keys.new_empty(tile, len(keys))
    with torch.autocast(keys.device.type, enabled=False):
        for start in range(0, len(lse), tile):
            part = slice(start, min(start + tile, len(lse)))
            rows = slice(pairs.first + part.start, pairs.first + part.stop)
            met, shift = _exponentials(keys, pairs, rows=rows, out=buffer[: part.stop - part.start])
            total = met.sum(1, keepdim=True)
            empty = total == 0
            lse[part] = (total.log() + shift).masked_fill_(empty, 0.0).squeeze(1)
            if gradient is not None and coefficient is not None:
                factor = (coefficient[part, None] / (total * pairs.temperature)).masked_fill_(empty, 0.0)
                gradient[rows].addcmul_(met @ keys, factor)
                gradient.addmm_(met.T, keys[rows] * factor)
    return lse, gradient


def _exponentials(keys: Tensor, pairs: Pairs, *, rows: slice, out: Tensor) -> tuple[Tensor, Tensor | float]:
    """`out` (anchor, key) filled with what the anchors of `rows` meet, each row scaled by exp(-shift)."""
    torch.mm(keys[rows] / pairs.temperature, keys.T, out=out)
    if pairs.log_copies is not None:
        out[:, : len(pairs.log_copies)].add_(pairs.log_copies)
    out.diagonal(rows.start).add_(pairs.log_self[rows.start - pairs.first : rows.stop - pairs.first])
    if pairs.group is not None:
        out.masked_fill_(pairs.group[rows, None] != pairs.group, -torch.inf)
    if pairs.bounded:
        return out.exp_(), 0.0
    shift = out.amax(1, keepdim=True)
    shift.masked_fill_(shift == -torch.inf, 0.0)
    return out.sub_(shift).exp_(), shift


class EachLse(torch.autograd.Function):
    """`tiled_lse` with its gradient: the tiles are made anew on the way back. Second derivatives are `plain_lse`'s."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, pairs: Pairs) -> Tensor:
        """The log-sum-exp of each anchor, (anchor)."""
        ctx.pairs = pairs
        ctx.save_for_backward(keys)
        return tiled_lse(keys, pairs, None)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        """The gradient by the keys."""
        (keys,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(keys, ctx.pairs, grad), None
        return tiled_lse(keys, ctx.pairs, grad)[1], None


class WeightedLosses(torch.autograd.Function):
    """sum_i coefficient_i (lse_i - attraction_i), and each difference, which carries no gradient.

    The coefficients being known, value and gradient are of one pass over the tiles. `coefficient` has no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, keys: Tensor, attraction: Tensor, coefficient: Tensor, pairs: Pairs, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum, and the losses (anchor); the gradient by the keys is kept where it is `wanted`."""
        lse, gradient = tiled_lse(keys, pairs, coefficient if wanted else None)
        losses = lse - attraction
        ctx.pairs = pairs
        ctx.save_for_backward(keys, coefficient, gradient)
        ctx.mark_non_differentiable(losses)
        return (coefficient * losses).sum(), losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """The gradients by keys and attractions."""
        keys, coefficient, gradient = ctx.saved_tensors
        each = coefficient * grad
        by_keys = _differentiable(keys, ctx.pairs, each) if torch.is_grad_enabled() else gradient * grad
        return by_keys, -each, None, None, None


def _differentiable(keys: Tensor, pairs: Pairs, grad: Tensor) -> Tensor:
    """The gradient by the keys as a function that can be differentiated again; holds all pairs at once."""
    (found,) = torch.autograd.grad(plain_lse(keys, pairs), keys, grad, create_graph=True)
    return found
