"""What each of two processes of `tests/losses/test_contrastive_processes.py` does, in a module that they can import."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from deltagram.errors import SettingError
from deltagram.losses import SupervisedContrastive, cached_backward

SPLIT = 13  # of 31 items: batches of two sizes
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "torch's way": {"plain": True},
    "in": {"variant": "in"},
    "sum": {"reduction": "sum"},
    "nonzero": {"divisor": "nonzero"},
    "weight": {"weight": [1.0, 2, 3, 4]},
    "prototypes": {"prototypes": torch.eye(4, 8), "trainable": True, "copies": [1, 2, 0, 5]},
    "anchors": {"prototypes": torch.eye(4, 8), "trainable": True, "copies": 3, "prototype_anchors": True},
}


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(4, (31,), generator=draw)
    label[:3] = torch.tensor([-100, 3, 2])
    return torch.randn(31, 6, generator=draw), label


def encoder() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8))


class Model(nn.Module):
    """Encoder and loss in one module, so that prototypes that train are averaged with the rest."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.encoder, self.loss = encoder(), SupervisedContrastive(**given)

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.loss(self.encoder(x), label)
        return found


def refused(rank: int, x: torch.Tensor, label: torch.Tensor) -> dict[str, np.ndarray]:
    """The texts of refusals of which the cause is on one process alone, or on none by itself."""
    loss, said = SupervisedContrastive(gather="average"), {}
    broken = {
        "nan": (x * float("nan") if rank else x, label),
        "features": (x[:, rank:], label),
        "alone": (x[:2], torch.tensor([0, 1]) + 2 * rank),
    }
    for name, given in broken.items():
        try:
            loss(*given)
        except SettingError as fault:
            said[f"refused.{name}"] = np.array(str(fault))
    return said


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    x, label = samples()
    mine = slice(0, SPLIT) if rank == 0 else slice(SPLIT, None)
    found: dict[str, Any] = refused(rank, x[mine], label[mine])
    for name, given in CASES.items():
        model = DistributedDataParallel(Model(gather="average", **given))
        value = model(x[mine], label[mine])
        value.backward()
        found[f"{name}.value"] = value.detach()
        found |= {f"{name}.{key}": p.grad for key, p in model.module.named_parameters()}
    z = x[mine].clone().requires_grad_()
    SupervisedContrastive(gather="sum")(z, label[mine]).backward()
    found["rows.sum"] = z.grad
    z = x[mine].clone().requires_grad_()
    each = SupervisedContrastive(gather="sum", reduction="none")(z, label[mine])
    each.sum().backward()
    found |= {"rows.none": each.detach(), "rows.none.grad": z.grad}
    one = encoder()
    parts = DistributedDataParallel(one)
    loss = SupervisedContrastive(gather="average")
    found["cached.value"] = cached_backward(loss, parts, x[mine].split(5), label[mine])
    found |= {f"cached.encoder.{key}": p.grad for key, p in one.named_parameters()}
    pair = torch.tensor([0, 0]) if rank else torch.tensor([1, 2])  # no anchor of rank 0 has a positive
    found["lonely"] = loss(x[:2] + rank, pair)
    np.savez(f"{folder}/{rank}.npz", **{key: np.asarray(part) for key, part in found.items()})
    dist.destroy_process_group()
