"""The log-sum-exp where anchors are the items themselves: i meets j as j meets i, so half of the pairs are enough."""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from deltagram.losses.contrastive_pairs import Pairs, tile_rows

LEAST_ITEMS: Final = 1024  # under which the products are too small to gain by halves
PARTS: Final = 8  # tiles at least: with t of them (t + 1) / 2t of the pairs are made


def in_halves(keys: Tensor, pairs: Pairs) -> bool:
    """True where every item is an anchor, no prototype is, and the sums of exponentials need no maximum."""
    few = 0 if pairs.log_copies is None else len(pairs.log_copies)
    alike = pairs.bounded and pairs.group is None and pairs.first == few and pairs.last == len(keys)
    return alike and pairs.last - pairs.first >= LEAST_ITEMS


def halved_lse(keys: Tensor, pairs: Pairs, coefficient: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """`tiled_lse` from the pairs i < j: once for the sums, and again for the gradient.

    With E_ij = exp(z_i.z_j / temperature) and f_i = coefficient_i / (temperature sum_i) the gradient by z_i is
    sum_j (f_i + f_j) E_ij z_j, whose weights are symmetric, too; prototypes are added as they are.
    """
    items, prototypes = keys[pairs.first :], keys[: pairs.first]
    total = torch.zeros_like(items[:, 0])
    with torch.autocast(keys.device.type, enabled=False):
        for rows, met in _upper(items, pairs):
            total[rows] += met.sum(1)
            total[rows.stop :] += met[:, len(met) :].sum(0)
        for rows, met in _beside(items, prototypes, pairs):
            total[rows] += met.sum(1)
        lse = total.log()
        if coefficient is None:
            return lse, None
        gradient = torch.zeros_like(keys)
        by_items, by_prototypes = gradient[pairs.first :], gradient[: pairs.first]
        factor = coefficient / (total * pairs.temperature)
        weights = keys.new_empty(0)
        for rows, met in _upper(items, pairs):
            weights = weights if len(weights) else torch.empty_like(met).view(-1)
            both = weights[: met.numel()].view_as(met)
            met.mul_(torch.add(factor[rows, None], factor[rows.start :], out=both))
            by_items[rows].addmm_(met, items[rows.start :])
            by_items[rows.stop :].addmm_(met[:, len(met) :].T, items[rows])
        for rows, met in _beside(items, prototypes, pairs):
            met.mul_(factor[rows, None])
            by_items[rows].addmm_(met, prototypes)
            by_prototypes.addmm_(met.T, items[rows])
    return lse, gradient


def _upper(items: Tensor, pairs: Pairs) -> Iterator[tuple[slice, Tensor]]:
    """Rows, and their exponentials with all items from the first of these rows on; no item meets itself."""
    tile = min(pairs.tile or tile_rows(items), -(-len(items) // PARTS))
    buffer = items.new_empty(tile * len(items))
    for start in range(0, len(items), tile):
        rows = slice(start, min(start + tile, len(items)))
        shape = (rows.stop - start, len(items) - start)
        met = buffer[: shape[0] * shape[1]].view(shape)
        torch.mm(items[rows] / pairs.temperature, items[start:].T, out=met)
        met.exp_().diagonal().zero_()
        yield rows, met


def _beside(items: Tensor, prototypes: Tensor, pairs: Pairs) -> Iterator[tuple[slice, Tensor]]:
    """Rows, and their exponentials with the prototypes, each as often as it is there."""
    if pairs.log_copies is None:
        return
    tile = pairs.tile or tile_rows(prototypes)
    for start in range(0, len(items), tile):
        rows = slice(start, min(start + tile, len(items)))
        yield rows, torch.addmm(pairs.log_copies, items[rows] / pairs.temperature, prototypes.T).exp_()
