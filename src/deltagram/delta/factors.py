"""What a plan knows and asks of LoRA factors before they are read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from deltagram.delta.methods import Bernoulli, Exact, Magnitude, Method, Random
from deltagram.errors import PlanError


@dataclass(frozen=True, kw_only=True)
class FactorShapes:
    """What is known of a tensor's LoRA factors before they are read: the shapes of A and B, and what multiplies B A."""

    a: tuple[int, int]
    b: tuple[int, int]
    scale: float
    transposed: bool


NO_FACTORS: Final[Mapping[str, FactorShapes]] = MappingProxyType({})


def check_factors(name: str, factors: FactorShapes | None, method: Method) -> None:
    """Raise PlanError unless the factors of a tensor can be stored, pruned by a method."""
    if factors is None:
        fix = "give an adapter as TUNED and --adapter factors, or another form"
        raise PlanError(name, "is to be stored as low_rank, but there are no factors of it", fix=fix)
    product = f"store their product with --adapter product, or with form: pruned for '{name}' in a plan"
    if isinstance(method, Exact):
        fix = "give --keep 1 --values f32 instead, or --adapter product"
        raise PlanError(name, "factors are kept exactly by keeping all their entries", fix=fix)
    if type(method) not in (Random, Bernoulli, Magnitude):
        found = f"method {type(method).__name__.lower()} chooses entries of a difference, not of its factors"
        raise PlanError(name, found, fix=product)
    (rank, inputs), (outputs, _) = factors.a, factors.b
    if rank > min(inputs, outputs):
        raise PlanError(name, f"factors of rank {rank} for a matrix of {outputs} x {inputs}", fix=product)


def check_names(low_rank: Iterable[str], tuned: Iterable[str]) -> None:
    """Raise PlanError where a tensor has the name of another's factor, `T:A` or `T:B`."""
    names = set(tuned)
    for name in low_rank:
        for factor in (f"{name}:A", f"{name}:B"):
            if factor in names:
                found = f"is the name of a tensor, and of a factor of {name}"
                raise PlanError(factor, found, fix="store the product with --adapter product")
