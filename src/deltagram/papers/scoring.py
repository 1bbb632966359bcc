"""How good a model is on test texts, text by text, so that two models can be compared on the same ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64
from deltagram.data.packages import Texts
from deltagram.training import outputs
from deltagram.training.loaded import Batch, Loaded, batches
from deltagram.training.metrics import METRICS

I64 = NDArray[np.int64]
_AT_ONCE: Final = 64


class Scorer(Protocol):
    """Measures a model on fixed texts."""

    @property
    def identity(self) -> dict[str, Any]:
        """All that its numbers depend on, apart from the model: JSON data."""

    def prepare(self, run: Loaded) -> Callable[[], F64]:
        """Tokenize once; the function gives, for the model as it then is, one value a text."""

    def score(self, values: F64, chosen: I64 | None = None) -> float:
        """One number, the higher the better, of all texts or of the `chosen` ones (which may repeat)."""

    def least(self, train: Texts) -> float:
        """The score without any model: of the most common class in `train`, or minus infinity."""


@dataclass(frozen=True, kw_only=True)
class Classes:
    """A classifier's classes under a metric of `training.metrics`; the value of a text is the class it is put into."""

    texts: Texts
    digest: str
    classes: tuple[str, ...]
    metric: str
    max_length: int

    @property
    def identity(self) -> dict[str, Any]:
        """Texts and their length; the metric is applied afterwards."""
        return {"texts": self.digest, "max_length": self.max_length}

    def prepare(self, run: Loaded) -> Callable[[], F64]:
        """Batches of like length, made once; a model may have the classes in another order."""
        made = batches(run, self.texts.text, max_length=self.max_length, size=_AT_ONCE)
        index = np.array([self.classes.index(name) for name in run.classes])
        return lambda: index[outputs.predictions(run, made)].astype(np.float64)

    def score(self, values: F64, chosen: I64 | None = None) -> float:
        """The metric."""
        index = np.arange(len(values)) if chosen is None else chosen
        found = values[index].astype(np.int64)
        return METRICS[self.metric](np.asarray(self.texts.label, np.int64)[index], found)

    def least(self, train: Texts) -> float:
        """The metric of always answering the class that is most common in `train`."""
        return self.score(np.full(len(self.texts), _commonest(train), np.float64))


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A language model's greedy next token after a prompt; the value is the class whose `tokens` entry it is, or -1."""

    prompts: tuple[str, ...]
    label: tuple[int, ...]
    tokens: tuple[int, ...]
    digest: str
    max_length: int

    @property
    def identity(self) -> dict[str, Any]:
        """Prompts, answers and length."""
        return {"texts": self.digest, "tokens": list(self.tokens), "max_length": self.max_length}

    def prepare(self, run: Loaded) -> Callable[[], F64]:
        """Batches of like length, made once; a prompt's last token is the one that is answered."""
        made = batches(run, self.prompts, max_length=self.max_length)
        order = [sample for batch in made for sample in batch.samples]
        ends = np.concatenate([_lengths(batch) for batch in made]).cumsum() - 1
        classes = {token: index for index, token in enumerate(self.tokens)}

        def values() -> F64:
            found = outputs.predictions(run, made)[ends]
            answer = np.full(len(self.prompts), -1.0)
            answer[order] = [classes.get(int(token), -1) for token in found]
            return answer

        return values

    def score(self, values: F64, chosen: I64 | None = None) -> float:
        """The share that is right."""
        right = values == np.asarray(self.label)
        return float(np.mean(right if chosen is None else right[chosen]))

    def least(self, train: Texts) -> float:
        """The share of the class that is most common in `train`."""
        return self.score(np.full(len(self.label), _commonest(train), np.float64))


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """A language model's mean negative log-likelihood a token, in nats; the value of a text is its own."""

    texts: tuple[str, ...]
    digest: str
    max_length: int

    @property
    def identity(self) -> dict[str, Any]:
        """Texts and their length."""
        return {"texts": self.digest, "max_length": self.max_length}

    def prepare(self, run: Loaded) -> Callable[[], F64]:
        """One text a batch; all are about as long."""
        made = batches(run, self.texts, max_length=self.max_length, size=1)
        return lambda: np.array([outputs.next_token_nll(run, [batch]) for batch in made])

    def score(self, values: F64, chosen: I64 | None = None) -> float:
        """Minus the mean: exp of its negative is the perplexity."""
        return -float(np.mean(values if chosen is None else values[chosen]))

    def least(self, train: Texts) -> float:  # noqa: ARG002 - the interface of a scorer
        """There is no trivial text."""
        return -math.inf


def _commonest(train: Texts) -> int:
    return int(np.argmax(np.bincount(train.label)))


def _lengths(batch: Batch) -> I64:
    lengths: I64 = np.asarray(batch.mask.sum(1).cpu(), np.int64)
    return lengths


def share(score: float, *, floor: float, top: float) -> float:
    """The share of the gain that is kept: 0 at the floor, 1 at the fine-tuned model; NaN where nothing was gained.

    >>> share(0.9, floor=0.5, top=1.0)
    0.8
    """
    return (score - floor) / (top - floor) if top > floor else float("nan")


def share_interval(
    scorer: Scorer, pruned: Sequence[F64], *, tuned: F64, floor: F64, least: float, rounds: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the mean share over masks; texts are drawn for all models at once (paired).

    `floor` are the values of the base under the tuned head, `least` the score of the trivial answer.
    """
    rng = np.random.default_rng(seed)
    found = np.empty(rounds)
    for turn in range(rounds):
        chosen = rng.integers(0, len(tuned), len(tuned))
        top, bottom = scorer.score(tuned, chosen), max(least, scorer.score(floor, chosen))
        found[turn] = np.mean([share(scorer.score(values, chosen), floor=bottom, top=top) for values in pruned])
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)
