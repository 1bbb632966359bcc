"""Masks as a manifest writes them: what a reader has to know to find the kept positions again."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from deltagram.delta.masks import WORDS
from deltagram.store.strict import Check, Size, Strict


class StratifiedMask(Strict):
    """`keep` strata; positions follow from the tensor's key."""

    kind: Literal["stratified"] = "stratified"
    keep: Annotated[int, Field(ge=1, lt=WORDS)]
    check: Check


class BernoulliMask(Strict):
    """Word below `threshold`; `keep` is the realised count."""

    kind: Literal["bernoulli"] = "bernoulli"
    threshold: Annotated[int, Field(ge=0, le=WORDS)]
    keep: Size
    check: Check


class ListedMask(Strict):
    """Positions as data, coded as `coding` says."""

    kind: Literal["listed"] = "listed"
    keep: Annotated[int, Field(ge=1, lt=1 << 63)]
    score: Literal["magnitude", "wanda"]
    coding: Mapping[str, int | str]
    check: Check

    @model_validator(mode="after")
    def _ordered(self) -> "ListedMask":
        if next(iter(self.coding), None) != "coding":
            raise ValueError("the coding's name does not come first")
        return self


class ColumnsMask(Strict):
    """A seeded mask inside `columns` input columns, which are data; Bernoulli if there is a `threshold`."""

    kind: Literal["columns"] = "columns"
    columns: Annotated[int, Field(ge=1, lt=WORDS)]
    score: Literal["random", "magnitude", "wanda"]
    threshold: Annotated[int, Field(ge=0, le=WORDS)] | None = None
    keep: Size
    check: Check

    def entries(self, shape: tuple[int, ...]) -> int:
        """Entries of the chosen columns of a matrix of this shape. Raises ValueError where it cannot have them."""
        if len(shape) != 2 or self.columns > shape[1] or self.keep > shape[0] * self.columns:
            raise ValueError(f"{self.keep} entries in {self.columns} columns of a tensor of shape {shape}")
        return shape[0] * self.columns
