"""What a pruned delta is guaranteed to do as the fine-tuned model does, from texts nobody chose on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltagram.delta.agreement import lower_bound
from deltagram.jobs.evidence import trained_classifier
from deltagram.training import outputs
from deltagram.training.loaded import Batch, Loaded

CONFIDENCE = 0.95
Decisions = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """`agreeing` of `texts` held-out texts are decided as by the fine-tuned model; `at_least` bounds the share."""

    agreeing: int
    texts: int
    at_least: float
    confidence: float
    counted: str


def counted(run: Loaded) -> str:
    """What one text says of agreement, in words; empty for a model that decides nothing about a text as a whole."""
    if run.kind == "decoder":
        return "the most likely token after the whole text"
    return "the class of the text" if trained_classifier(run) and len(run.classes) > 1 else ""


def decisions(run: Loaded, batches: Sequence[Batch]) -> Decisions:
    """One number a text with a token, in the order of the batches: its class, or the token that would follow it."""
    found = outputs.predictions(run, batches)
    if run.classes:
        at = np.array([sample for batch in batches for sample in batch.samples], np.int64)
    else:
        at = np.cumsum([int(length) for batch in batches for length in batch.mask.sum(1)], dtype=np.int64) - 1
    return np.take(found, at)


def guarantee(found: Decisions, expected: Decisions, *, counted: str, confidence: float = CONFIDENCE) -> Guarantee:
    """The exact one-sided binomial bound on the share of texts on which both decide alike; one trial a text.

    It holds for texts drawn as the held-out ones were, for a delta chosen without them.
    """
    agreeing, total = int((found == expected).sum()), len(expected)
    bound = lower_bound(agreeing, total, confidence=confidence)
    return Guarantee(agreeing=agreeing, texts=total, at_least=bound, confidence=confidence, counted=counted)
