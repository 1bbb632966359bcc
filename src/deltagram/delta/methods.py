"""The pruning methods and what each decides for a tensor, in one literal table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from deltagram.delta.masks import STRATIFIED_MOST, WORDS


@dataclass(frozen=True, kw_only=True)
class Random:
    """Random entries, seeded: stratified up to a kept share of 1/8, Bernoulli above."""

    keep: float

    @property
    def mask(self) -> str:
        """The mask kind."""
        return "stratified" if self.keep <= STRATIFIED_MOST else "bernoulli"


@dataclass(frozen=True, kw_only=True)
class Bernoulli:
    """Each entry kept with probability `keep`, independently: DARE's own mask."""

    keep: float

    @property
    def mask(self) -> str:
        """The mask kind."""
        return "bernoulli"


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """The entries with the largest absolute difference."""

    keep: float

    @property
    def mask(self) -> str:
        """The mask kind."""
        return "listed"


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Every entry, bit for bit."""

    keep: float = 1.0

    @property
    def mask(self) -> str:
        """No mask: every entry is stored."""
        return "none"


Method = Random | Bernoulli | Magnitude | Exact
METHODS: Final[Mapping[str, type[Method]]] = {
    "random": Random,
    "bernoulli": Bernoulli,
    "magnitude": Magnitude,
    "exact": Exact,
}


def kept_count(method: Method, size: int) -> int:
    """Entries an exact-count mask keeps of `size`: half-even rounding of keep x size, at least one."""
    return max(1, round(method.keep * size))


def threshold(method: Method) -> int:
    """The Bernoulli threshold: word < threshold keeps an entry; 1 to 2^32."""
    return max(1, round(method.keep * WORDS))
