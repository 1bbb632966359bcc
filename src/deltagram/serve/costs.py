"""Which way a batch is answered sooner: learnt from the batches that were."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

Way = Literal["swap", "mixed"]
WAYS: Final[tuple[Way, ...]] = ("swap", "mixed")
_KEPT: Final = 64  # batches remembered of each way
_LEAST: Final = 4  # batches each way needs before the other's time is believed
_AGAIN: Final = 50  # the way that seems slower is tried once in so many batches: times change


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a batch costs, in counts: of each of its variants the tokens that run for it, with what fills the batch up,
    and the entries that a swap to it writes. `steps` is how often the model runs.
    """

    tokens: Sequence[int]
    entries: Sequence[int]
    steps: int = 1

    def features(self, way: Way) -> list[float]:
        """What its time is a sum of, with weights that are learnt: runs, tokens, groups, entries."""
        groups, tokens = len(self.tokens), float(sum(self.tokens))
        if way == "swap":
            return [groups * self.steps, tokens * self.steps, 0.0, float(sum(self.entries))]
        beside = sum(t * e for t, e in zip(self.tokens, self.entries, strict=True)) / 1e6
        return [self.steps, tokens * self.steps, groups * self.steps, beside * self.steps]


@dataclass(eq=False)
class Costs:
    """Seconds of past batches by way, and what they say of the next. Non-negative least squares on their counts."""

    _seen: Mapping[Way, deque[tuple[list[float], float]]] = field(
        default_factory=lambda: {way: deque(maxlen=_KEPT) for way in WAYS}
    )
    _chosen: int = 0

    def choose(self, batch: Batch) -> Way:
        """The way that should take less time. Batches of one variant, too, teach; some are spent on trying."""
        self._chosen += 1
        fewest = min(WAYS, key=lambda way: len(self._seen[way]))
        if len(self._seen[fewest]) < _LEAST:
            return fewest
        expected = {way: self.seconds(batch, way) for way in WAYS}
        best = min(WAYS, key=lambda way: expected[way])
        if self._chosen % _AGAIN == 0:
            return next(way for way in WAYS if way != best)
        return best

    def seconds(self, batch: Batch, way: Way) -> float:
        """What a batch should take. Relative errors are made small: short batches count as much as long ones."""
        from scipy.optimize import nnls  # noqa: PLC0415 - a fifth of a second

        seen = self._seen[way]
        features = np.array([row for row, _ in seen])
        times = np.array([seconds for _, seconds in seen])
        weights, _ = nnls(features / times[:, None], np.ones(len(times)))
        return float(np.dot(batch.features(way), weights))

    def learn(self, batch: Batch, way: Way, seconds: float) -> None:
        """What a batch took."""
        self._seen[way].append((batch.features(way), max(seconds, 1e-6)))
