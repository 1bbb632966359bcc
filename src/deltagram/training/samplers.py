"""Which examples go through the model at each step, by the name of a sampler."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltagram.data import (
    BindingBatchSampler,
    ClassBalancedBatchSampler,
    EnlargedBatchSampler,
    MPerClassBatchSampler,
)
from deltagram.errors import SettingError
from deltagram.training.batches import I64, shuffled
from deltagram.training.recipe import Recipe
from deltagram.training.tasks import Classification, Task


@dataclass
class ByLength:
    """A batch sampler of the batches that training takes by itself: of like length, drawn each epoch or once."""

    task: Task
    recipe: Recipe
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of this epoch from now on."""
        self.epoch = 0 if self.recipe.fixed_batches else epoch

    def __len__(self) -> int:
        return math.ceil(len(self.task.lengths) / self.recipe.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        lengths, recipe = self.task.lengths, self.recipe
        for batch in shuffled(lengths, size=recipe.batch_size, seed=recipe.seed, first=self.epoch, epochs=1):
            yield batch.tolist()


def step_batches(task: Task, recipe: Recipe) -> list[I64]:
    """The examples of each step. Raises SettingError for a sampler of classes where there are none."""
    own = ByLength(task, recipe)
    epochs = recipe.epochs if recipe.steps is None else -(-recipe.steps // len(own))
    sampler: Any = own
    if recipe.sampler != "shuffled":
        if not isinstance(task, Classification):
            why = f"{recipe.sampler} needs classes, and a language model has none"
            raise SettingError("sampler", why, expected="shuffled")
        sampler = _of_classes(task, recipe, own)
    found: list[I64] = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found += [np.asarray(batch, np.int64) for batch in sampler]
    return found[: recipe.steps]


def _of_classes(task: Classification, recipe: Recipe, own: ByLength) -> Any:
    label, size, seed = task.label, recipe.batch_size, recipe.seed
    if recipe.sampler == "class-balanced":
        return ClassBalancedBatchSampler(label, size, seed=seed)
    if recipe.sampler == "m-per-class":
        return MPerClassBatchSampler(label, size, per_class=recipe.per_class or 2, seed=seed)
    each = recipe.per_class or 1
    if recipe.sampler == "enlarged":
        return EnlargedBatchSampler(label, batches=own, extra=each * len(set(label)), seed=seed)
    bound = int(np.minimum(np.bincount(label), each).sum())
    if size < bound:
        fix = "take larger batches, or bind fewer of each class"
        raise SettingError("batch_size", f"is {size}", expected=f"{bound} or more, the examples to bind", fix=fix)
    return BindingBatchSampler(label, batches=own, per_class=each, rotate=recipe.rotate or False, seed=seed)
