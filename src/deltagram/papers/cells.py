"""What is measured, as data: how a delta is stored, and what its kept values are divided by."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from deltagram.arrays import F64

SELECT: Final = "select"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How a delta is pruned: settings of `jobs.prune`. The mask is DARE's own unless told otherwise.

    `budget` is in bytes, and takes the place of `keep`. The method "select" is what `jobs.select` recommends for it.
    """

    method: str = "bernoulli"
    keep: float | None = 0.01
    budget: int | None = None
    values: str = "bf16"
    columns: float | None = None
    refit: bool = False
    adapter: str | None = None
    seed: int = 0

    @property
    def calibrated(self) -> bool:
        """Whether texts decide what is kept, or what is kept of it."""
        return self.refit or "wanda" in self.method or self.method == SELECT

    @property
    def drawn(self) -> bool:
        """Whether another seed gives another mask."""
        return self.method in ("bernoulli", "random", "columns", SELECT)

    def settings(self) -> dict[str, Any]:
        """What `prune` is told."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement: a stored delta and `divide_by`: "dare" (as it is stored), a rule of the search, or a number.

    A number multiplies the divisor of every tensor.
    """

    stored: Stored
    divide_by: str | float = "dare"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a cell came to: a value a text, their score, the bytes of the delta, what its search found."""

    values: F64
    score: float
    delta_bytes: int
    found: dict[str, Any]

    @classmethod
    def of(cls, numbers: dict[str, Any], score: float) -> "Outcome":
        """From a note's numbers."""
        return cls(
            values=np.asarray(numbers["values"], np.float64),
            score=score,
            delta_bytes=int(numbers["delta_bytes"]),
            found=dict(numbers["found"]),
        )
