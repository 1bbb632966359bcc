"""How to train, as data: settings, their ranges, and the learning rate at each step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from deltagram.errors import SettingError
from deltagram.training.losses import LOSSES

PULLS: Final = ("none", "l2", "l1")
PRECISIONS: Final = ("no", "bf16", "fp16")


def linear(step: int, steps: int) -> float:
    """Straight down to zero."""
    return (steps - step) / steps


def cosine(step: int, steps: int) -> float:
    """Half a cosine down to zero."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def constant(step: int, steps: int) -> float:  # noqa: ARG001 - the interface of a schedule
    """No change."""
    return 1.0


SCHEDULES: Final[Mapping[str, Callable[[int, int], float]]] = {"linear": linear, "cosine": cosine, "constant": constant}


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters instead of the weights: rank, alpha (the product is scaled by alpha / rank), module names."""

    rank: int
    alpha: int | None = None
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a training; SettingError for one outside its range.

    `batch_size` is the texts a step, which go through the model in `accumulate` parts. `steps` overrides
    `epochs`. `clip` is the largest norm of the gradient. `pull` and `strength` are AdamR's; "none" is AdamW
    with `weight_decay` on tensors of two axes or more.
    """

    loss: str = "ce"
    pull: str = "none"
    strength: float = 0.01
    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-4
    schedule: str = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    dropout: bool = True
    freeze: tuple[str, ...] = ()
    mixed_precision: str = "no"
    lora: Lora | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingError(name, f"{getattr(self, name)}", expected="a positive number")
        if self.steps is not None and self.steps < 1:
            raise SettingError("steps", f"{self.steps}", expected="a positive number")
        for name in ("strength", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(name, f"{getattr(self, name)}", expected="0 or a positive number")
        if not 0 <= self.warmup <= 1:
            raise SettingError("warmup", f"{self.warmup}", expected="a share of the steps, 0 to 1")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise SettingError("seed", f"{self.seed} is too large", expected="a signed 64-bit integer")
        for name, table in (
            ("loss", LOSSES), ("pull", PULLS), ("schedule", SCHEDULES), ("mixed_precision", PRECISIONS),
        ):  # fmt: skip
            if getattr(self, name) not in table:
                raise SettingError(name, f"{getattr(self, name)!r} is unknown", expected=" or ".join(table))
        if self.weight_decay and self.pull != "none":
            fix = "leave out weight_decay: the pull is what takes its place"
            raise SettingError("weight_decay and pull", "contradict each other", fix=fix)
        if self.lora and (self.lora.rank < 1 or not 0 < (self.lora.alpha or 1) < math.inf):
            raise SettingError("lora", f"rank {self.lora.rank}, alpha {self.lora.alpha}", expected="positive numbers")

    def rate(self, step: int, *, steps: int) -> float:
        """Learning rate at a step, counted from 0: up to `learning_rate` over the warm-up, then down by the schedule.

        >>> [round(Recipe(warmup=0.25, learning_rate=1.0).rate(step, steps=8), 2) for step in range(8)]
        [0.5, 1.0, 0.86, 0.71, 0.57, 0.43, 0.29, 0.14]
        """
        warm = math.ceil(self.warmup * steps)
        if step < warm:
            return self.learning_rate * ((step + 1) / warm)
        return self.learning_rate * SCHEDULES[self.schedule](step - warm + 1, steps - warm + 1)
