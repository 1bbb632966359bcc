"""What a delta holds of one tensor, decoded: the values that `patch` and the serving engine work with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from deltagram.arrays import F32, F64, Bits, Spec
from deltagram.delta.lowrank import Factors, dense
from deltagram.delta.masks import Mask


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Kept differences of a tensor's leading rows; `rows` are further rows that the base lacks.

    Entry `mask.positions(k, k + 1)[0]` is round(base + values[k] / divide_by), `divide_by` being one number or
    one a row. `base_name` is the tensor's name in the base.
    """

    spec: Spec
    base_name: str
    base: Spec
    mask: Mask
    values: F32
    divide_by: F64
    rows: Bits | None = None


@dataclass(frozen=True, kw_only=True)
class Whole:
    """All entries of a tensor, as bit patterns."""

    spec: Spec
    base_name: str
    bits: Bits


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Reversible distances of all entries from the base's (`deltagram.delta.difference.distance`)."""

    spec: Spec
    base_name: str
    base: Spec
    words: Bits


@dataclass(frozen=True, kw_only=True)
class SparseFactor:
    """The kept entries of a LoRA factor of `shape`: entry `mask.positions(k, k + 1)[0]` is values[k] / divide_by."""

    shape: tuple[int, int]
    mask: Mask
    values: F32
    divide_by: F64

    def dense(self) -> F32:
        """The whole factor."""
        return dense(self.mask, self.values, self.divide_by, self.shape)


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """The base plus `scale x B A`."""

    spec: Spec
    base_name: str
    base: Spec
    a: SparseFactor
    b: SparseFactor
    scale: float
    transposed: bool

    def factors(self) -> Factors:
        """Both factors in full."""
        return Factors(a=self.a.dense(), b=self.b.dense(), scale=self.scale, transposed=self.transposed)


Stored = Pruned | Whole | Distances | LowRank


class Loads(Protocol):
    """Anything that can decode its tensors; those equal to the base's are left out."""

    def load(self) -> Mapping[str, Stored]:
        """Decoded tensors by their name in the tuned model."""
