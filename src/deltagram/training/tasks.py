"""What a model is trained to do: put texts into classes, or predict the next token."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from deltagram.errors import SettingError
from deltagram.progress import Progress
from deltagram.training.batches import I64, by_length
from deltagram.training.huggingface import Tokens
from deltagram.training.losses import IGNORED, LOSSES
from deltagram.training.metrics import METRICS, PERPLEXITY

_AT_ONCE = 64


class Task(Protocol):
    """Texts as tokens, and what a model's logits are compared with."""

    @property
    def tokens(self) -> Tokens:
        """The texts."""

    def pair(self, torch: Any, model: Any, samples: I64) -> tuple[Any, Any]:
        """Logits, `example class`, and targets, `example`, of some texts; `IGNORED` is a target that does not count."""

    def examples(self, samples: I64) -> int:
        """How many targets of these texts count."""

    def measure(self, torch: Any, model: Any, metric: str, *, progress: Progress) -> float:
        """The metric of a model on all texts."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Texts and the number of each one's class."""

    tokens: Tokens
    label: tuple[int, ...]

    def pair(self, torch: Any, model: Any, samples: I64) -> tuple[Any, Any]:
        """Logits and classes of some texts."""
        logits = logits_of(torch, model, self.tokens, samples)
        return logits, torch.tensor([self.label[i] for i in samples], device=logits.device)

    def examples(self, samples: I64) -> int:
        """One a text."""
        return len(samples)

    def predict(self, torch: Any, model: Any, *, progress: Progress) -> I64:
        """The class that the model gives each text; SettingError if it gives something that is not a number."""
        model.eval()
        guess = np.zeros(len(self.label), np.int64)
        done = 0
        with torch.inference_mode():
            for samples in by_length(self.tokens.lengths, size=_AT_ONCE):
                logits = logits_of(torch, model, self.tokens, samples)
                if not bool(torch.isfinite(logits).all()):
                    raise SettingError("metric", "the model's answers are not finite", fix="train at a lower rate")
                guess[samples] = logits.argmax(dim=-1).cpu().numpy()
                done += len(samples)
                progress.advance("measuring accuracy", done, len(self.label))
        return guess

    def measure(self, torch: Any, model: Any, metric: str, *, progress: Progress) -> float:
        """One of METRICS on all texts."""
        guess = self.predict(torch, model, progress=progress)
        found = METRICS[metric](np.asarray(self.label, np.int64), guess)
        if math.isnan(found):
            raise SettingError("metric", f"{metric} is not a number: all labels are one class", fix="take accuracy")
        return found


@dataclass(frozen=True, kw_only=True)
class LanguageModelling:
    """A stream of tokens, cut into pieces; every token but a piece's first is predicted."""

    tokens: Tokens

    def pair(self, torch: Any, model: Any, samples: I64) -> tuple[Any, Any]:
        """Logits of all places but the last, and the tokens that follow them."""
        numbers, mask = self.tokens.batch(samples)
        logits = logits_of(torch, model, self.tokens, samples)[:, :-1]
        target = torch.from_numpy(np.where(mask == 1, numbers, IGNORED)[:, 1:]).to(logits.device)
        return logits.flatten(0, 1), target.flatten()

    def examples(self, samples: I64) -> int:
        """All tokens but the first."""
        return sum(self.tokens.lengths[i] - 1 for i in samples)

    def measure(self, torch: Any, model: Any, metric: str, *, progress: Progress) -> float:  # noqa: ARG002 - has one
        """Perplexity: the exponential of the mean negative log likelihood of a token."""
        model.eval()
        total, count, done = 0.0, 0, 0
        with torch.inference_mode():
            for samples in by_length(self.tokens.lengths, size=max(1, _AT_ONCE // 8)):
                logits, target = self.pair(torch, model, samples)
                total += float(LOSSES["ce"](torch, logits.float(), target)) * self.examples(samples)
                count += self.examples(samples)
                done += len(samples)
                progress.advance(f"measuring {PERPLEXITY}", done, len(self.tokens.ids))
        if not total / count < math.log(1e300):
            raise SettingError("metric", f"{PERPLEXITY} is not finite", fix="train at a lower rate")
        return math.exp(total / count)


def losses(torch: Any, model: Any, task: Task, samples: I64, *, loss: str, parts: int) -> Iterator[tuple[float, Any]]:
    """The loss of a step's texts in parts: each part's share of the examples, and its mean loss.

    The next part is computed when it is asked for, so that one part's graph is held at a time.
    """
    whole = task.examples(samples)
    for part in np.array_split(samples, min(parts, len(samples))):
        logits, target = task.pair(torch, model, part)
        yield task.examples(part) / whole, LOSSES[loss](torch, logits.float(), target)


def logits_of(torch: Any, model: Any, tokens: Tokens, samples: I64) -> Any:
    """A model's logits of some texts."""
    numbers, mask = tokens.batch(samples)
    device = next(model.parameters()).device
    return model(
        input_ids=torch.from_numpy(numbers).to(device), attention_mask=torch.from_numpy(mask).to(device)
    ).logits  # fmt: skip
