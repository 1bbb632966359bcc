"""`GeometryCallback` as Lightning's Trainer calls it."""

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from deltagram.errors import ExtraError, SettingError
from deltagram.training.observed import labels_in

if TYPE_CHECKING:
    from deltagram.training.callbacks import GeometryCallback


def lightning_callback(geometry: "GeometryCallback") -> Any:
    """A Lightning callback around `geometry`. Raises ExtraError without lightning.

    Training batches are measured at the end of each epoch, validation at its end, without the sanity check. Labels are
    those of a batch that is a mapping by name, else its last element. Scalars go through the module's `log_dict`.
    """
    parent = _callback_class()

    class LightningGeometry(parent):  # type: ignore[misc, valid-type]  # which of two packages it is, is known here
        state_key = "deltagram.GeometryCallback"

        def on_fit_start(self, _trainer: Any, pl_module: Any) -> None:
            geometry.attach(pl_module)

        def on_train_batch_start(self, _trainer: Any, _module: Any, batch: Any, *_: Any) -> None:
            geometry.labels(_labels(batch))

        def on_validation_batch_start(self, _trainer: Any, _module: Any, batch: Any, *_: Any) -> None:
            geometry.labels(_labels(batch))

        def on_sanity_check_end(self, _trainer: Any, _module: Any) -> None:
            geometry.forget("eval")

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            _end(geometry, "train", trainer, pl_module)

        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                _end(geometry, "eval", trainer, pl_module)

        def on_fit_end(self, _trainer: Any, _module: Any) -> None:
            geometry.detach()

        def state_dict(self) -> dict[str, Any]:
            import torch  # noqa: PLC0415

            kept = geometry.state()
            return {name: None if value is None else torch.as_tensor(value) for name, value in kept.items()}

        def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
            geometry.set_state(
                {name: None if value is None else value.cpu().numpy() for name, value in state_dict.items()}
            )

    return LightningGeometry()


def _callback_class() -> Any:
    """The class of callbacks of `lightning`, or of `pytorch_lightning`, its other name, where that alone is in use."""
    names = ["lightning.pytorch", "pytorch_lightning"]
    if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
        names.reverse()
    for name in names:
        try:
            return import_module(name).Callback
        except ModuleNotFoundError:
            continue
    raise ExtraError("GeometryCallback", "package lightning is not installed", fix="pip install lightning")


def _end(geometry: "GeometryCallback", phase: str, trainer: Any, pl_module: Any) -> None:
    found = geometry.epoch_end(phase, epoch=trainer.current_epoch, step=trainer.global_step)
    if found:
        pl_module.log_dict(found)


def _labels(batch: Any) -> Any:
    """The labels of a batch. Raises SettingError for a batch that shows none."""
    if isinstance(batch, Mapping):
        found = labels_in((batch,), {})
    else:
        found = batch[-1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    if found is None:
        raise SettingError(
            "geometry", f"a batch of type {type(batch).__name__} shows no labels",
            expected="a mapping with 'labels', or a sequence that ends in them",
        )  # fmt: skip
    return found
