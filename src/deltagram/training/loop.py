"""The loop that every fine-tuning runs, one step a batch, on what accelerate gives."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deltagram.errors import ExtraError, SettingError
from deltagram.training.batches import I64
from deltagram.training.contrastive import Contrastive
from deltagram.training.losses import Objective
from deltagram.training.recipe import Recipe
from deltagram.training.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that was taken: its number from 1, the loss before it, its learning rate."""

    number: int
    loss: float
    learning_rate: float


@contextmanager
def accelerated(*, precision: str = "no", track: Sequence[str] = (), folder: str | None = None) -> Iterator[Any]:
    """An accelerate Accelerator for one process, ended with the block; the caller's own state is left alone.

    Raises ExtraError without accelerate or a tracker's package, SettingError for a precision that the device does
    not have, or under several processes.
    """
    try:
        import accelerate  # noqa: PLC0415 - an extra
        from accelerate import tracking  # noqa: PLC0415
        from accelerate.state import AcceleratorState, GradientState  # noqa: PLC0415
    except ModuleNotFoundError as fault:
        found = f"package {fault.name} is not installed"
        raise ExtraError("fine-tuning", found, fix="pip install 'deltagram[hf]'") from None
    _check_trackers(tracking, track)
    foreign = bool(AcceleratorState._shared_state)
    try:
        try:
            made = accelerate.Accelerator(mixed_precision=precision, log_with=list(track) or None, project_dir=folder)
        except ValueError as fault:
            raise SettingError("mixed_precision", f"{precision} cannot be had here ({fault})", fix="take no") from None
        if precision == "fp16" and made.device.type == "cpu":
            raise SettingError("mixed_precision", "fp16 cannot be had on a processor", fix="take bf16, or no")
        if made.num_processes > 1:
            found = f"runs in {made.num_processes} processes"
            raise SettingError("fine-tuning", found, expected="one", fix="start it without a launcher")
        yield made
        made.end_training()
    finally:
        if not foreign:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


def _check_trackers(tracking: Any, names: Sequence[str]) -> None:
    """SettingError for a tracker that accelerate does not know, ExtraError for one whose package is missing."""
    known = [str(getattr(name, "value", name)) for name in tracking.LOGGER_TYPE_TO_CLASS]
    there = [str(getattr(name, "value", name)) for name in tracking.get_available_trackers()]
    for name in names:
        if name not in known:
            raise SettingError("track", f"{name!r} is unknown", expected=" or ".join(known))
        if name not in there:
            raise ExtraError("track", f"package {name} is not installed", fix=f"pip install {name}")


@contextmanager
def seeded(torch: Any, seed: int) -> Iterator[None]:
    """Torch's random state begun at `seed`, and the caller's afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def descend(
    torch: Any, accelerator: Any, model: Any, optimizer: Any, task: Task, *,
    batches: Sequence[I64], recipe: Recipe, objective: Objective | Contrastive, start: int = 0,
) -> Iterator[Step]:  # fmt: skip
    """Train `model` in place, from step `start` on; yields each step after it.

    Raises SettingError at a loss that is not finite.
    """
    model.train(recipe.dropout)
    trained = [param for group in optimizer.param_groups for param in group["params"]]
    for number, samples in enumerate(batches[start:], start=start + 1):
        rate = recipe.rate(number - 1, steps=len(batches))
        for group in optimizer.param_groups:
            group["lr"] = rate
        mean = 0.0
        for loss in objective.losses(torch, accelerator, model, task, samples, parts=recipe.accumulate):
            value = loss.item()
            if not math.isfinite(value):
                found = f"{recipe.learning_rate}, with which the loss of step {number} is {value}"
                raise SettingError("learning_rate", found, expected="a finite loss", fix="take a lower one")
            accelerator.backward(loss)
            mean += value
        if recipe.clip:
            accelerator.clip_grad_norm_(trained, recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield Step(number=number, loss=mean, learning_rate=rate)
