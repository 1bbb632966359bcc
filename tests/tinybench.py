"""A reproduction in seconds: tiny random models, a task they learn, and all of its claims' checks as they are."""

from pathlib import Path

from deltagram.data.packages import TextClassification, Texts
from deltagram.papers.bench import Bench, Scale
from deltagram.papers.tasks import Task
from tinymodels import MOODS, tiny_bert, tiny_llama
from tinymodels import mood as rows

PROMPT = ("Review", ":", "Sentiment")


def texts(count: int, *, seed: int) -> Texts:
    """Sentences of fillers and the name of their class."""
    made = rows(count, seed=seed)
    return Texts(tuple(row["text"] for row in made), tuple(MOODS.index(row["label"]) for row in made))


def mood() -> TextClassification:
    return TextClassification(name="mood", classes=MOODS, train=texts(180, seed=1), test=texts(40, seed=2))


TASK = Task(name="mood", packaged=mood, learning_rate=3e-3, epochs=15, max_length=16, held=24)
SCALE = Scale(name="fast", seeds=(0,), masks=(0, 1), test=30, labels=8, texts=4, prompts=20, chosen_on=10)


def llama(folder: Path) -> Path:
    """A tiny Llama that knows the words of the prompts."""
    return tiny_llama(folder, more=PROMPT, positions=64)


def bench(folder: Path) -> Bench:
    """A bench over tiny models in `folder`."""
    for name, make in (("base-bert", tiny_bert), ("base-llama", llama)):
        if not (folder / name).exists():
            make(folder / name)
    return Bench(
        folder=folder, scale=SCALE, encoder=lambda: folder / "base-bert", decoder=lambda: folder / "base-llama",
        task=TASK,
    )  # fmt: skip
