"""What a model is trained to do: put examples into classes, or predict the next token."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from deltagram.errors import SettingError
from deltagram.progress import Progress
from deltagram.training.batches import I64, by_length
from deltagram.training.huggingface import Tokens
from deltagram.training.losses import IGNORED, Paired
from deltagram.training.metrics import METRICS, PERPLEXITY, recall

_AT_ONCE = 64

Seen = Callable[[Any], None]  # is told the targets of what has just gone through the model


class Inputs(Protocol):
    """Examples that a model has logits of."""

    @property
    def lengths(self) -> Sequence[int]:
        """How long each one is: alike ones go together."""

    def logits(self, torch: Any, model: Any, samples: I64) -> Any:
        """A model's logits of some of them."""


class Task(Paired, Protocol):
    """Examples, and what a model's logits (example, class) are compared with; `IGNORED` targets do not count."""

    def scores(
        self, torch: Any, model: Any, metric: str, *, progress: Progress, seen: Seen | None = None
    ) -> dict[str, Any]:
        """The metric of a model on all examples, and what else is known of it then."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Examples and the number of each one's class."""

    inputs: Inputs
    label: tuple[int, ...]

    @property
    def lengths(self) -> Sequence[int]:
        """Of the inputs."""
        return self.inputs.lengths

    def pair(self, torch: Any, model: Any, samples: I64) -> tuple[Any, Any]:
        """Logits and classes of some examples."""
        logits = self.inputs.logits(torch, model, samples)
        return logits, torch.tensor([self.label[i] for i in samples], device=logits.device)

    def targets(self, samples: I64) -> I64:
        """One an example."""
        return np.array([self.label[i] for i in samples], np.int64)

    def predict(self, torch: Any, model: Any, *, progress: Progress, seen: Seen | None = None) -> I64:
        """The class that the model gives each example; SettingError if it gives something that is not a number."""
        model.eval()
        guess = np.zeros(len(self.label), np.int64)
        done = 0
        with torch.inference_mode():
            for samples in by_length(self.lengths, size=_AT_ONCE):
                logits, target = self.pair(torch, model, samples)
                if not bool(torch.isfinite(logits).all()):
                    raise SettingError("metric", "the model's answers are not finite", fix="train at a lower rate")
                if seen is not None:
                    seen(target)
                guess[samples] = logits.argmax(dim=-1).cpu().numpy()
                done += len(samples)
                progress.advance("measuring accuracy", done, len(self.label))
        return guess

    def scores(
        self, torch: Any, model: Any, metric: str, *, progress: Progress, seen: Seen | None = None
    ) -> dict[str, Any]:
        """One of METRICS on all examples, accuracy, balanced accuracy, and the recall of each class (None if empty)."""
        true, guess = np.asarray(self.label, np.int64), self.predict(torch, model, progress=progress, seen=seen)
        found = {name: METRICS[name](true, guess) for name in {metric: 0, "accuracy": 0, "balanced-accuracy": 0}}
        if math.isnan(found[metric]):
            raise SettingError("metric", f"{metric} is not a number: all labels are one class", fix="take accuracy")
        return {**found, "recall": recall(true, guess)}

    def measure(self, torch: Any, model: Any, metric: str, *, progress: Progress) -> float:
        """One of METRICS on all examples."""
        return float(self.scores(torch, model, metric, progress=progress)[metric])


@dataclass(frozen=True, kw_only=True)
class LanguageModelling:
    """A stream of tokens, cut into pieces; every token but a piece's first is predicted."""

    tokens: Tokens

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each piece."""
        return self.tokens.lengths

    def pair(self, torch: Any, model: Any, samples: I64) -> tuple[Any, Any]:
        """Logits of all places but the last, and the tokens that follow them."""
        numbers, mask = self.tokens.batch(samples)
        logits = self.tokens.logits(torch, model, samples)[:, :-1]
        target = torch.from_numpy(np.where(mask == 1, numbers, IGNORED)[:, 1:]).to(logits.device)
        return logits.flatten(0, 1), target.flatten()

    def targets(self, samples: I64) -> I64:
        """All tokens but the first of each piece."""
        return np.concatenate([np.array(self.tokens.ids[i][1:], np.int64) for i in samples])

    def measure(self, torch: Any, model: Any, metric: str, *, progress: Progress) -> float:
        """Perplexity: the exponential of the mean negative log likelihood of a token."""
        return float(self.scores(torch, model, metric, progress=progress)[metric])

    def scores(
        self, torch: Any, model: Any, metric: str, *, progress: Progress, seen: Seen | None = None
    ) -> dict[str, Any]:  # fmt: skip
        """Perplexity, by its name in `metric`."""
        del seen  # there are no classes to tell of
        model.eval()
        total, count, done, lengths = 0.0, 0, 0, self.lengths
        with torch.inference_mode():
            for samples in by_length(lengths, size=max(1, _AT_ONCE // 8)):
                logits, target = self.pair(torch, model, samples)
                total += float(
                    torch.nn.functional.cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="sum")
                )
                count += sum(lengths[i] - 1 for i in samples)
                done += len(samples)
                progress.advance(f"measuring {PERPLEXITY}", done, len(self.tokens.ids))
        if not total / count < math.log(1e300):
            raise SettingError("metric", f"{PERPLEXITY} is not finite", fix="train at a lower rate")
        return {metric: math.exp(total / count)}
