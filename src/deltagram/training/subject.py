"""What is trained: a model, its examples, and how it is written; made by `texts`, `pictures`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.training.batches import I64
from deltagram.training.tasks import Classification, Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model and the task it learns; `held_out` is what it is measured on in the end, if there is anything.

    `classes` are the names of its classes, none for a language model. `save` writes a trained model into a folder.
    `adapters` is what peft calls the kind of model, None for one that takes none. `told` is for the record.
    `least` is how many examples must go through the model at once in training: batch norm has no variance of one.
    """

    model: Any
    task: Task
    held_out: Task | None
    classes: tuple[str, ...]
    save: Callable[[Any, Path], None]
    adapters: str | None
    told: Mapping[str, Any]
    least: int = 1

    @property
    def counts(self) -> I64 | None:
        """Training samples a class, (class); None without classes."""
        if not isinstance(self.task, Classification):
            return None
        return np.bincount(np.asarray(self.task.label, np.int64), minlength=len(self.classes)).astype(np.int64)


Make = Callable[[Any, Any], Subject]  # torch and transformers in; called with the random state begun at the seed
