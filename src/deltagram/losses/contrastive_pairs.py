"""What a contrastive loss compares: anchors with keys, and the log-sum-exp over them by torch's own operations."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

TILE_BYTES: Final = 1 << 22  # similarities held at once: about what stays in a processor's cache
LEAST_TILE: Final = 64  # rows under which a matrix product loses its speed


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The keys that each anchor meets, and how often: anchor a meets key b as `exp(a.b / temperature)`, weighted.

    Anchors are keys `first` to `last` - 1. The first keys are prototypes, each of which stands for as many as
    `log_copies` (prototype) says. `log_self` (anchor) is the logarithm of the share of an anchor's copies that are
    not itself: -inf for a single one. With `group` (key) an anchor meets keys of its own group alone. `bounded`: no
    exponential can leave the range of its dtype, so that no maximum need be subtracted. `tile` is in anchors.
    """

    first: int
    last: int
    temperature: float
    log_self: Tensor
    log_copies: Tensor | None = None
    group: Tensor | None = None
    bounded: bool = False
    tile: int | None = None


def tile_rows(keys: Tensor) -> int:
    """Anchors a tile: as many as `TILE_BYTES` hold similarities of, or a few more than that for millions of keys."""
    return max(LEAST_TILE, TILE_BYTES // (len(keys) * keys.element_size()))


def plain_lse(keys: Tensor, pairs: Pairs) -> Tensor:
    """log of the weighted sum that each anchor meets, (anchor), by operations that torch differentiates; 0 for none."""
    with torch.autocast(keys.device.type, enabled=False):
        logits = keys[pairs.first : pairs.last] @ keys.T / pairs.temperature
    if pairs.log_copies is not None:
        few = len(pairs.log_copies)
        logits = torch.cat([logits[:, :few] + pairs.log_copies, logits[:, few:]], 1)
    itself = torch.zeros_like(logits).diagonal_scatter(pairs.log_self, pairs.first)
    logits = logits + itself
    if pairs.group is not None:
        logits = logits.masked_fill(pairs.group[pairs.first : pairs.last, None] != pairs.group, -torch.inf)
    nothing = logits.detach().amax(1) == -torch.inf
    return logits.masked_fill(nothing[:, None], 0.0).logsumexp(1).masked_fill(nothing, 0.0)
