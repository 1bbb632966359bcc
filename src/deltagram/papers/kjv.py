"""The King James Bible as text to predict: SmolLM2 fine-tuned on it is the language model of the quality tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deltagram.data.packages import TextClassification, Texts
from deltagram.errors import SettingError
from deltagram.jobs.train import train
from deltagram.papers.bench import Bench, Variant, write_lines
from deltagram.papers.tasks import Task
from deltagram.training.metrics import PERPLEXITY

_WORDS: Final = 96  # of a piece, about 128 tokens
_TEST: Final = 100
_STEPS: Final = 82
_AT_ONCE: Final = 4


def kjv(folder: Path) -> TextClassification:
    """Pieces of about 128 tokens of `kjv.txt` (of the Debian package bible-kjv: `bible -f gen1:1-rev22:21 > kjv.txt`).

    The last 100 pieces are the test; the pieces before them are what a model is trained on.
    """
    path = folder / "kjv.txt"
    try:
        words = path.read_text("utf-8").split()
    except (OSError, ValueError) as fault:
        fix = "write it with: bible -f gen1:1-rev22:21 > kjv.txt"
        raise SettingError(str(path), f"cannot be read ({fault})", fix=fix) from None
    pieces = [" ".join(words[start : start + _WORDS]) for start in range(0, len(words) - _WORDS + 1, _WORDS)]
    if len(pieces) < 2 * _TEST:
        raise SettingError(str(path), f"has {len(pieces)} pieces of {_WORDS} words", expected=f"{2 * _TEST} or more")
    return TextClassification(
        name="KJV", classes=("text",), train=_texts(pieces[:-_TEST]), test=_texts(pieces[-_TEST:])
    )


def _texts(pieces: list[str]) -> Texts:
    return Texts(tuple(pieces), (0,) * len(pieces))


KJV: Final = Task(name="kjv", released=kjv, learning_rate=5e-5, max_length=128, held=256, metric=PERPLEXITY)


def tuned(bench: Bench, task: Task = KJV, *, name: str = "kjv", **told: Any) -> Variant:
    """The language model trained on `_STEPS` times `_AT_ONCE` pieces, with what it is `told` besides."""
    data, _ = bench.data(task)
    settings = {
        "learning_rate": task.learning_rate, "steps": _STEPS, "batch_size": _AT_ONCE, "max_length": task.max_length,
        "dropout": False, "seed": 0, **told,
    }  # fmt: skip

    def work(base: Path, folder: Path) -> Mapping[str, Any]:
        table = bench.folder / f"{name}-train.jsonl"
        write_lines(table, [{"text": text} for text in data.train.text])
        try:
            record = train(base, table, folder, task="lm", **settings, force=True, progress=bench.progress)
        finally:
            table.unlink()
        return {key: record.numbers[key] for key in ("steps", "loss")}

    return bench.trained(task, work, name=name, settings=settings, base=bench.language_model())
