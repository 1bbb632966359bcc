"""The longest manifest and header a plan can lead to, so that payloads can be written before they are known."""

from collections.abc import Mapping
from typing import Any

from deltagram.arrays import Spec, entries
from deltagram.delta.factors import FactorShapes
from deltagram.delta.masks import WORDS
from deltagram.delta.methods import Listed, Structural, kept_count, threshold
from deltagram.delta.plan import Entry, Plan
from deltagram.delta.submatrix import inside
from deltagram.store.directory import FORMAT
from deltagram.store.header import header_text
from deltagram.store.manifest import Manifest
from deltagram.store.masks import BernoulliMask, ColumnsMask, ListedMask, StratifiedMask
from deltagram.store.parts import part_specs
from deltagram.store.tensors import (
    ExactTensor,
    LowRankTensor,
    PrunedTensor,
    StoredFactor,
    StoredTensor,
    StoredValues,
    WholeTensor,
)

UNKNOWN = "0" * 64  # a digest filled in later
_CHECK = "0" * 16


def outline(entry: Entry, *, pack: bool) -> StoredTensor:
    """A manifest entry at least as long as the one `entry` will get."""
    base, tuned = entry.base, entry.tuned
    if base is None:
        return WholeTensor(
            shape=list(tuned.shape), dtype=tuned.dtype, values=coded_values(entry, pack=pack), digest=UNKNOWN
        )
    fields = identity(entry, base, UNKNOWN) | {"digest": UNKNOWN}
    if entry.form == "whole":
        return WholeTensor.model_validate(fields | {"values": coded_values(entry, pack=pack)})
    if entry.form == "exact":
        return ExactTensor.model_validate(fields | {"tuned_digest": UNKNOWN})
    if entry.form == "low_rank" and entry.factors is not None:
        sides = {
            letter: _factor(entry, shape, pack=pack)
            for letter, shape in (("A", entry.factors.a), ("B", entry.factors.b))
        }
        return LowRankTensor.model_validate(fields | factor_fields(entry.factors) | sides)
    fields |= {
        "form": "pruned" if base.shape == tuned.shape else "resized",
        "mask": _mask(entry),
    }
    return PrunedTensor.model_validate(fields | {"values": StoredValues.of(entry.values, pack=pack)})


def coded_values(entry: Entry, *, pack: bool) -> StoredValues | None:
    """How a whole tensor's entries are coded; None for one that is stored as it is."""
    return StoredValues.of(entry.values, pack=pack) if entry.coded else None


def identity(entry: Entry, base: Spec, digest: str) -> dict[str, Any]:
    """The fields that every tensor with a base has; `digest` is the base tensor's."""
    tuned = entry.tuned
    return {
        "shape": list(tuned.shape),
        "dtype": tuned.dtype,
        "base_name": None if entry.base_name == entry.name else entry.base_name,
        "base_shape": None if base.shape == tuned.shape else list(base.shape),
        "base_dtype": None if base.dtype == tuned.dtype else base.dtype,
        "base_digest": digest,
    }


def factor_fields(factors: FactorShapes) -> dict[str, Any]:
    """What a low-rank tensor's entry says of both factors."""
    return {"rank": factors.a[0], "scale": factors.scale, "transposed": True if factors.transposed else None}


def _factor(entry: Entry, shape: tuple[int, int], *, pack: bool) -> StoredFactor:
    return StoredFactor(mask=_free_mask(entry, entries(shape)), values=StoredValues.of(entry.values, pack=pack))


def _mask(entry: Entry) -> StratifiedMask | BernoulliMask | ListedMask | ColumnsMask:
    if isinstance(entry.method, Structural):
        within = inside(entry.method, entry.common)
        return ColumnsMask(
            columns=within.columns, score=entry.method.score, threshold=within.threshold, keep=within.entries,
            check=_CHECK,
        )  # fmt: skip
    return _free_mask(entry, entries(entry.common))


def _free_mask(entry: Entry, size: int) -> StratifiedMask | BernoulliMask | ListedMask:
    """A mask over `size` entries that heeds no rows and columns."""
    if entry.method.mask == "stratified":
        return StratifiedMask(keep=kept_count(entry.method, size), check=_CHECK)
    if entry.method.mask == "bernoulli":
        return BernoulliMask(keep=size, threshold=threshold(entry.method), check=_CHECK)
    coding: Mapping[str, int | str] = {"coding": "golomb", "divisor": WORDS * WORDS}
    score = entry.method.score if isinstance(entry.method, Listed) else "magnitude"
    return ListedMask(keep=kept_count(entry.method, size), score=score, coding=coding, check=_CHECK)


def header_bounds(manifest: Manifest, plan: Plan) -> tuple[int, int]:
    """Bytes to reserve for the header of the first file and of any further one; `manifest` holds outlines."""
    largest = (8 if any(entry.form == "low_rank" for entry in plan.entries) else 2) * sum(
        entry.tuned.nbytes for entry in plan.entries
    ) + 1_000_000
    specs = {
        f"{name}:{suffix}": spec or Spec(dtype="U8", shape=(largest,))
        for name, tensor in manifest.tensors.items()
        for suffix, spec in sorted(part_specs(tensor).items())
    }
    first = {"format": FORMAT, "deltagram": manifest.text(), "digest": UNKNOWN}
    return len(header_text(specs, first)), len(header_text(specs, {"format": FORMAT}))
