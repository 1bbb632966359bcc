"""A loss as transformers' Trainer calls it, with gradient accumulation right."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deltagram.errors import SettingError

IGNORED = -100  # the labels that Trainer does not count


@dataclass(frozen=True, kw_only=True)
class TrainerLoss:
    """`compute_loss_func(outputs, labels, num_items_in_batch=None)`: the sum of losses over the number of labels.

    Trainer gives the number of labels in all parts of an accumulated step, on all processes, and scales nothing
    itself: so many small parts are the same step as one large batch. Where it gives none, the labels here count.
    Class weights multiply the losses and do not change what is divided by (torch's mean divides by the sum of the
    weights of one part, which no part can know of the others): weights of mean 1 over the training set, as
    "balanced" makes them, keep the learning rate's meaning.

    Logits end in the class axis, as models of transformers give them, labels are indices with -100 where none is,
    or probabilities. `shift` compares position t with label t + 1, as causal language models do. Buffers follow
    the logits to their device. Raises SettingError for a loss that ignores another label, and without labels.
    """

    loss: Any
    shift: bool = False

    def __post_init__(self) -> None:
        if self.loss.ignore_index != IGNORED:
            raise SettingError("ignore_index", f"is {self.loss.ignore_index}", expected=f"{IGNORED}, as Trainer has it")

    def __call__(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        """The loss of a part of a step."""
        if labels is None:
            raise SettingError("labels", "are missing", fix="name the column of the data set 'labels'")
        logits = outputs["logits"] if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
        logits = outputs[0] if logits is None else logits
        if any(buffer.device != logits.device for buffer in self.loss.buffers()):
            self.loss.to(logits.device)
        if self.shift:
            logits, labels = logits[..., :-1, :], labels[..., 1:]
        classes = logits.shape[-1]
        soft = labels.is_floating_point()
        labels = labels.reshape(-1, classes) if soft else labels.reshape(-1)
        items = num_items_in_batch
        if items is None:
            items = len(labels) if soft else (labels != IGNORED).sum()
        elif soft:
            items = items / classes  # Trainer counts the entries of labels
        return self.loss.summed(logits.reshape(-1, classes), labels) / items
