"""A network of two layers, whose second is the head, its batches, and the moments of what its head sees."""

from typing import Any

import torch

from deltagram.geometry.moments import ClassMoments

CLASSES, FEATURES = 3, 5


class Net(torch.nn.Module):
    """Two layers; the second is the head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(4, FEATURES)
        self.head = torch.nn.Linear(FEATURES, CLASSES, bias=False)

    def forward(self, x: Any, labels: Any = None) -> Any:  # noqa: ARG002 - as models of transformers
        return self.head(torch.tanh(self.body(x)))


def batch(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 4, generator=generator), torch.arange(size) % CLASSES


def moments_of(net: Net, *batches: tuple[Any, Any]) -> ClassMoments:
    with torch.no_grad():
        features = torch.cat([torch.tanh(net.body(x)) for x, _ in batches])
    return ClassMoments.of(features, torch.cat([y for _, y in batches]), classes=CLASSES)
