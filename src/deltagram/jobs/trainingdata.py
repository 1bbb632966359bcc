"""What a training is given to learn and to be measured on: texts or images, all of them or an imbalanced part."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from deltagram.data.images import Images, read_images
from deltagram.data.imbalance import imbalanced_subset, long_tail_counts, step_counts
from deltagram.data.tables import Table, class_index, class_names, read_table
from deltagram.errors import SettingError
from deltagram.training.fit import TASKS
from deltagram.training.pictures import named

KINDS = ("step", "long-tail")


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The task, and the examples to train on and to measure, if any."""

    task: str
    train: Table | Images
    held_out: Table | Images | None

    def digest(self) -> str:
        """What stands for the examples that are trained on."""
        if isinstance(self.train, Images):
            return self.train.digest()
        return blake3(repr((self.train.text, self.train.label)).encode()).hexdigest()


def training_data(
    model: str, data: Path | str, eval_data: Path | str | None, *, task: str | None, text: str, label: str,
    split: str | None, eval_split: str | None, imbalance: str | None, seed: int,
) -> TrainingData:  # fmt: skip
    """Read them; the task is images for a model that begins from nothing, else found by whether the data has labels.

    `imbalance` "step:R" or "long-tail:R" leaves classes with fewer examples, R times apart: see `data.imbalance`; which
    ones, and which examples, is drawn by `seed`. The largest classes keep as many as the smallest of the data has, or
    LARGEST of "step:R:LARGEST". Raises SettingError, or ExtraError as what reads does.
    """
    if task is not None and task not in TASKS:
        raise SettingError("task", f"{task!r} is unknown", expected=" or ".join(TASKS))
    if named(model):
        if task not in (None, "images"):
            raise SettingError("task", f"{task} with {model}, which is for images", fix="give a folder of transformers")
        task = "images"
    if task == "images":
        found = read_images(data, split=split)
        held_out = None if eval_data is None else read_images(eval_data, split=eval_split)
        return TrainingData(task=task, train=_imbalanced(found, imbalance, seed), held_out=held_out)
    labelled = None if task is None else task == "classification"
    table = read_table(data, labelled=labelled, text=text, label=label, split=split)
    task = task or ("lm" if table.label is None else "classification")
    texts = None
    if eval_data is not None:
        texts = read_table(eval_data, labelled=task == "classification", text=text, label=label, split=eval_split)
    return TrainingData(task=task, train=_imbalanced(table, imbalance, seed), held_out=texts)


def _imbalanced(data: Table | Images, imbalance: str | None, seed: int) -> Table | Images:
    """The part of the examples that is asked for; all of them for None."""
    if imbalance is None:
        return data
    kind, ratio, largest = _parsed(imbalance)
    if data.label is None:
        raise SettingError("imbalance", f"{imbalance} of {data.source}, which has no labels", fix="leave it out")
    which = _drawn(data.label, kind, ratio, largest=largest, seed=seed, source=data.source)
    if isinstance(data, Images):
        return data.taken(which)
    label = tuple(data.label[i] for i in which)
    return replace(data, text=tuple(data.text[i] for i in which), label=label)


def _parsed(imbalance: str) -> tuple[str, float, int | None]:
    kind, *sizes = imbalance.split(":")
    try:
        ratio, largest = float(sizes[0]), int(sizes[1]) if len(sizes) > 1 else None
    except (ValueError, IndexError):
        ratio, largest = 0.0, None
    if kind not in KINDS or not 1 <= ratio < np.inf or len(sizes) > 2:
        expected = "step:R or long-tail:R, with R the ratio of the largest to the smallest class, 1 or more"
        raise SettingError("imbalance", repr(imbalance), expected=expected)
    return kind, ratio, largest


def _drawn(
    label: tuple[str, ...], kind: str, ratio: float, *, largest: int | None, seed: int, source: str
) -> NDArray[np.int64]:
    classes = class_names(label)
    if len(classes) < 2:
        raise SettingError(source, f"has one class only ({label[0]!r})", expected="two classes or more")
    number = class_index(label, classes, source=source)
    most = int(np.bincount(number).min()) if largest is None else largest
    if kind == "step":
        share = len(classes) // 2 / len(classes)
        counts = step_counts(len(classes), largest=most, ratio=ratio, minority=share, seed=seed)
    else:
        counts = long_tail_counts(len(classes), largest=most, ratio=ratio, seed=seed)
    return imbalanced_subset(number, counts, seed=seed)
