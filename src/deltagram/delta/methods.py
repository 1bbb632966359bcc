"""The pruning methods and what each decides for a tensor, in one literal table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from deltagram.delta.masks import STRATIFIED_MOST, WORDS

Score = Literal["magnitude", "wanda"]


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
    mask: ClassVar[str] = "listed"
    score: ClassVar[Score] = "magnitude"
    by_row: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class MagnitudeRows:
    """The entries with the largest absolute difference of each row, as many in every row up to one."""

    keep: float
    mask: ClassVar[str] = "listed"
    score: ClassVar[Score] = "magnitude"
    by_row: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Wanda:
    """The entries with the largest |delta_ij| ||x_j||, x_j being input j on calibration text."""

    keep: float
    mask: ClassVar[str] = "listed"
    score: ClassVar[Score] = "wanda"
    by_row: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class WandaRows:
    """The entries with the largest |delta_ij| ||x_j|| of each row, as many in every row up to one."""

    keep: float
    mask: ClassVar[str] = "listed"
    score: ClassVar[Score] = "wanda"
    by_row: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Random entries inside randomly chosen input columns, `columns` of them all: DAREx's structural pruning."""

    keep: float
    columns: float
    mask: ClassVar[str] = "columns"
    score: ClassVar[Score | Literal["random"]] = "random"


@dataclass(frozen=True, kw_only=True)
class ColumnsMagnitude:
    """Random entries inside the input columns with the largest ||delta_:j||."""

    keep: float
    columns: float
    mask: ClassVar[str] = "columns"
    score: ClassVar[Score | Literal["random"]] = "magnitude"


@dataclass(frozen=True, kw_only=True)
class ColumnsWanda:
    """Random entries inside the input columns with the largest ||delta_:j|| ||x_j||."""

    keep: float
    columns: float
    mask: ClassVar[str] = "columns"
    score: ClassVar[Score | Literal["random"]] = "wanda"


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Every entry, bit for bit."""

    keep: float = 1.0

    @property
    def mask(self) -> str:
        """No mask: every entry is stored."""
        return "none"


Listed = Magnitude | MagnitudeRows | Wanda | WandaRows
Structural = Columns | ColumnsMagnitude | ColumnsWanda
Calibrated = Wanda | WandaRows | ColumnsWanda
Method = Random | Bernoulli | Listed | Structural | Exact
METHODS: Final[Mapping[str, type[Method]]] = {
    "random": Random,
    "bernoulli": Bernoulli,
    "magnitude": Magnitude,
    "magnitude-rows": MagnitudeRows,
    "wanda": Wanda,
    "wanda-rows": WandaRows,
    "columns": Columns,
    "columns-magnitude": ColumnsMagnitude,
    "columns-wanda": ColumnsWanda,
    "exact": Exact,
}


def kept_count(method: Method, size: int) -> int:
    """Entries an exact-count mask keeps of `size`: half-even rounding of keep x size, at least one."""
    return max(1, round(method.keep * size))


def most_drawn(keep: int) -> int:
    """Entries a Bernoulli mask that is to keep `keep` keeps at most: six sigma more, and ten for the few."""
    return keep + 6 * math.isqrt(keep) + 10


def threshold(method: Method) -> int:
    """The Bernoulli threshold: word < threshold keeps an entry; 1 to 2^32."""
    return max(1, round(method.keep * WORDS))
