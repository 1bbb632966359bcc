"""How to train, as data: settings, their ranges, and the learning rate at each step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from deltagram.errors import SettingError
from deltagram.training.losses import Loss

PULLS: Final = ("none", "l2", "l1")
PRECISIONS: Final = ("no", "bf16", "fp16")
OPTIMIZERS: Final = ("adamw", "sgd")
SAMPLERS: Final = ("shuffled", "class-balanced", "m-per-class", "binding", "enlarged")
ROTATE: Final = ("epoch", "batch")
OF_SAMPLERS: Final[Mapping[str, tuple[str, ...]]] = {
    "per_class": ("m-per-class", "binding", "enlarged"), "rotate": ("binding",),
    "fixed_batches": ("shuffled", "binding", "enlarged"),
}  # fmt: skip
DROPS: Final = (0.85, 0.95)  # shares of the steps after which the schedule "step" divides the rate by 10


def linear(step: int, steps: int) -> float:
    """Straight down to zero."""
    return (steps - step) / steps


def cosine(step: int, steps: int) -> float:
    """Half a cosine down to zero."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def constant(step: int, steps: int) -> float:  # noqa: ARG001 - the interface of a schedule
    """No change."""
    return 1.0


def step(step: int, steps: int) -> float:
    """A tenth after each of `DROPS`.

    >>> [step(number, 100) for number in (84, 85, 95)]
    [1.0, 0.1, 0.01]
    """
    return float(10.0 ** -sum(step >= share * steps for share in DROPS))


SCHEDULES: Final[Mapping[str, Callable[[int, int], float]]] = {
    "linear": linear, "cosine": cosine, "constant": constant, "step": step,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters instead of the weights: rank, alpha (the product is scaled by alpha / rank), module names."""

    rank: int
    alpha: int | None = None
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a training; SettingError for one outside its range.

    `batch_size` is the examples a step, which go through the model in `accumulate` parts; the `sampler` "shuffled"
    takes each once an epoch, "class-balanced" as many of every class, "m-per-class" `per_class` (2) of some classes.
    "binding" adds `per_class` (1) examples of every class to each batch, the same in all or, with `rotate`, others each
    "epoch" or "batch"; "enlarged" as many at random. With `fixed_batches` all epochs have the batches of the first.
    `steps` overrides `epochs`. `clip` is the largest
    norm of the gradient, 0 for any. `pull` and `strength` are AdamR's; "none" is the `optimizer`: adamw, with
    `weight_decay` on tensors of two axes or more, or sgd, with `momentum` and the decay on all.
    """

    loss: Loss = field(default_factory=Loss)
    sampler: str = "shuffled"
    per_class: int | None = None
    rotate: Literal["epoch", "batch"] | None = None
    fixed_batches: bool = False
    optimizer: str = "adamw"
    momentum: float = 0.9
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
        for name in ("epochs", "batch_size", "accumulate", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingError(name, f"{getattr(self, name)}", expected="a positive number")
        if self.steps is not None and self.steps < 1:
            raise SettingError("steps", f"{self.steps}", expected="a positive number")
        for name in ("strength", "weight_decay", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(name, f"{getattr(self, name)}", expected="0 or a positive number")
        if not 0 <= self.momentum < 1:
            raise SettingError("momentum", f"{self.momentum}", expected="0 to below 1")
        if not 0 <= self.warmup <= 1:
            raise SettingError("warmup", f"{self.warmup}", expected="a share of the steps, 0 to 1")
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise SettingError("seed", f"{self.seed} is too large", expected="a signed 64-bit integer")
        for name, table in (
            ("pull", PULLS), ("schedule", SCHEDULES), ("mixed_precision", PRECISIONS), ("optimizer", OPTIMIZERS),
            ("sampler", SAMPLERS),
        ):  # fmt: skip
            if getattr(self, name) not in table:
                raise SettingError(name, f"{getattr(self, name)!r} is unknown", expected=" or ".join(table))
        self._check_together()

    def _check_together(self) -> None:
        """SettingError for settings that contradict each other."""
        if self.per_class is not None and self.per_class < 1:
            raise SettingError("per_class", f"is {self.per_class}", expected="1 or more")
        if self.rotate is not None and self.rotate not in ROTATE:
            raise SettingError("rotate", f"{self.rotate!r} is unknown", expected=" or ".join(ROTATE))
        for name, of in OF_SAMPLERS.items():
            if getattr(self, name) and self.sampler not in of:
                raise SettingError(
                    name, f"is not a setting of {self.sampler}", expected=f"a sampler of {', '.join(of)}"
                )
        if self.weight_decay and self.pull != "none":
            fix = "leave out weight_decay: the pull is what takes its place"
            raise SettingError("weight_decay and pull", "contradict each other", fix=fix)
        if self.optimizer != "adamw" and self.pull != "none":
            fix = f"leave out {self.optimizer}, or the pull"
            raise SettingError("pull", f"is a part of AdamR, which takes the place of {self.optimizer}", fix=fix)
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
