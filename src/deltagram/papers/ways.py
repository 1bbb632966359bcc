"""The ways to store a delta that the quality tables compare, and the sizes they are compared at, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from deltagram.papers.cells import Cell, Stored


@dataclass(frozen=True, kw_only=True)
class Size:
    """A kept share of the entries, or the bytes: `ratio` times less than the model in bfloat16."""

    label: str
    keep: float | None = None
    ratio: int | None = None


SIZES: Final = (
    Size(label="keep 10 %", keep=0.1),
    Size(label="keep 1 %", keep=0.01),
    Size(label="keep 0.5 %", keep=0.005),
    Size(label="1/100 of the bytes", ratio=100),
    Size(label="1/300 of the bytes", ratio=300),
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to store a delta: mask, values, divisors, and how the model was `tuned`; `at` tells the sizes it has."""

    label: str
    method: str = "random"
    values: str = "bf16"
    divide_by: str = "dare"
    refit: bool = False
    adapter: str | None = None
    tuned: str = "adamw"
    at: tuple[str, ...] = ("keep", "bytes")

    def fits(self, size: Size) -> bool:
        """Whether this way is measured at a size."""
        return ("bytes" if size.keep is None else "keep") in self.at

    def cell(self, size: Size, *, dense_bytes: int, seed: int) -> Cell:
        """The measurement at a size, of a model of `dense_bytes` in bfloat16."""
        budget = None if size.ratio is None else dense_bytes // size.ratio
        stored = Stored(
            method=self.method, keep=size.keep, budget=budget, values=self.values, refit=self.refit,
            adapter=self.adapter, seed=seed,
        )  # fmt: skip
        return Cell(stored=stored, divide_by=self.divide_by)


_BYTES: Final = ("bytes",)
_KEEP: Final = ("keep",)
WAYS: Final = (
    Way(label="DARE, Bernoulli mask", method="bernoulli", at=_KEEP),
    Way(label="DARE"),
    Way(label="DAREx-q, one, output", divide_by="output"),
    Way(label="DAREx-q, layers, output", divide_by="output-layers", at=_KEEP),
    Way(label="DAREx-q, one, labels", divide_by="labels", at=_KEEP),
    Way(label="DAREx-q, layers, labels", divide_by="labels-layers", at=_KEEP),
    Way(label="magnitude", method="magnitude"),
    Way(label="WANDA", method="wanda"),
    Way(label="structural, DAREx-q", method="columns", divide_by="output"),
    Way(label="4 bit, DAREx-q", values="4bit", divide_by="output"),
    Way(label="3 bit, DAREx-q", values="3bit", divide_by="output", at=_BYTES),
    Way(label="4 bit, rows distilled", values="4bit", divide_by="distil-rows", at=_BYTES),
    Way(label="3 bit, values refitted", values="3bit", refit=True, at=_BYTES),
    Way(label="select", method="select", at=_BYTES),
    Way(label="AdamR + DARE", tuned="adamr"),
    Way(label="AdamR + DAREx-q", divide_by="output", tuned="adamr"),
    Way(label="AdamR + 4 bit, DAREx-q", values="4bit", divide_by="output", tuned="adamr", at=_BYTES),
    Way(label="LoRA, product, DAREx-q", divide_by="output", adapter="product", tuned="lora"),
    Way(label="LoRA, factors, DAREx-q", divide_by="output", adapter="factors", tuned="lora", at=_BYTES),
    Way(label="LoRA, factors, 4 bit", values="4bit", adapter="factors", tuned="lora", at=_BYTES),
)
BY_LABEL: Final[Mapping[str, Way]] = {way.label: way for way in WAYS}
