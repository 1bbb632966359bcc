"""`GeometryCallback` as transformers' Trainer calls it, with the names of arguments that it uses."""

from typing import TYPE_CHECKING, Any

import transformers

if TYPE_CHECKING:
    from deltagram.training.callbacks import GeometryCallback


class TrainerGeometry(transformers.TrainerCallback):
    """Training batches are measured at the end of each epoch, evaluations at the end of each.

    Labels are those that the model is given; a Trainer with a `compute_loss_func` keeps them from it: wrap that with
    `geometry.with_labels`. Scalars go into `state.log_history`; to send them to Trainer's loggers too, say
    `geometry.log = trainer.log` once there is a trainer.
    """

    def __init__(self, geometry: "GeometryCallback") -> None:
        self.geometry = geometry

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Look at the model."""
        self.geometry.attach(model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Measure the epoch's training batches."""
        self._end("train", state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Measure an evaluation."""
        self._end("eval", state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Measure what is left of an epoch, and look no more."""
        self._end("train", state)
        self.geometry.detach()

    def _end(self, phase: str, state: Any) -> None:
        found = self.geometry.epoch_end(phase, epoch=float(state.epoch or 0), step=int(state.global_step))
        if found and self.geometry.log is None:
            state.log_history.append({**found, "epoch": state.epoch, "step": state.global_step})
