"""`GeometryCallback` as Lightning's Trainer calls it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deltagram.errors import ExtraError, SettingError
from deltagram.training.observed import labels_in

if TYPE_CHECKING:
    from deltagram.training.callbacks import GeometryCallback


def lightning_callback(geometry: "GeometryCallback") -> Any:
    """A Lightning callback around `geometry`. Raises ExtraError without lightning."""
    return _made(_callback_class())(geometry)


def _callback_class() -> Any:
    """The class of callbacks of `lightning`, or of `pytorch_lightning`, its other name."""
    try:
        from lightning.pytorch import Callback  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        try:
            from pytorch_lightning import Callback  # noqa: PLC0415
        except ModuleNotFoundError:
            found = "package lightning is not installed"
            raise ExtraError("GeometryCallback", found, fix="pip install lightning") from None
    return Callback


def _made(parent: Any) -> Any:
    class LightningGeometry(parent):  # type: ignore[misc]  # lightning is not known to the type checker
        """Training batches are measured at the end of each epoch, validation at its end, without the sanity check.

        Labels: of a batch that is a mapping by name, else its last element. Scalars go through `self.log_dict`.
        """

        def __init__(self, geometry: "GeometryCallback") -> None:
            self.geometry = geometry

        @property
        def state_key(self) -> str:
            return "deltagram.GeometryCallback"

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
            self.geometry.attach(pl_module)

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
            self.geometry.labels(_labels(batch))

        def on_validation_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0  # noqa: ARG002
        ) -> None:
            self.geometry.labels(_labels(batch))

        def on_sanity_check_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
            self.geometry.forget("eval")

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self._end("train", trainer, pl_module)

        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                self._end("eval", trainer, pl_module)

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
            self.geometry.detach()

        def state_dict(self) -> dict[str, Any]:
            import torch  # noqa: PLC0415

            kept = self.geometry.state()
            return {name: None if value is None else torch.as_tensor(value) for name, value in kept.items()}

        def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
            self.geometry.set_state(
                {name: None if value is None else value.cpu().numpy() for name, value in state_dict.items()}
            )

        def _end(self, phase: str, trainer: Any, pl_module: Any) -> None:
            where = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            pl_module.log_dict(self.geometry.epoch_end(phase, **where))

    return LightningGeometry


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
