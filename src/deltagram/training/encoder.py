"""A model as what embeds examples, for what asks torch modules about themselves."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deltagram.training.batches import I64


class Encoder(torch.nn.Module):
    """`encoder(samples)` are their embeddings, which `embed` makes with the model."""

    def __init__(self, model: Any, embed: Callable[[I64], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.embed = embed

    def forward(self, samples: I64) -> Tensor:
        """Embeddings (sample, feature)."""
        return self.embed(samples)
