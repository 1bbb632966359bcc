"""One tensor of several variants to the merged one, block by block; what a method drops is decided in passes before."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from deltagram import seeds
from deltagram.arrays import F32, U64, Bits, as_floats, convert, rounded
from deltagram.delta import kernels, scores
from deltagram.delta.joint import Joint
from deltagram.delta.masks import WORDS as RANGE
from deltagram.delta.merge import (
    Consensus,
    Floats,
    Way,
    average,
    combine,
    keep_at,
    keep_largest,
    l1_factor,
    trimmed_count,
)
from deltagram.delta.methods import Bernoulli, threshold
from deltagram.delta.scores import Threshold
from deltagram.errors import PlanError
from deltagram.store.variants import Variant

Rescaling = Literal["none", "dare", "l1"]
FINITE: Final = "repair the model, or leave it out of the merge"


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How one tensor is merged: a method and its numbers, one weight and density a model.

    `rescaling`: kept differences are multiplied by nothing, by 1/(1-p), or to the L1 norm they had.
    `seed`: model i draws from `seed` + i. `wide`: in float64, whatever the tensors are.
    """

    way: Way
    weights: tuple[float, ...]
    densities: tuple[float, ...]
    normalize: bool
    scale: float
    rescaling: Rescaling
    consensus: Consensus
    seed: int
    wide: bool = False


@dataclass(kw_only=True)
class _Kept:
    """What of one task vector takes part: all of it, the largest entries, or a Bernoulli mask's; times `factor`.

    The mask keeps an entry whose word in the stream of `key` is below `probability` (of 2^32).
    """

    threshold: Threshold | None = None
    probability: int = 0
    key: int = 0
    factor: float = 1.0
    _ties: int = field(default=0, init=False)

    def restart(self) -> None:
        """Before the first block of a pass."""
        self._ties = self.threshold.ties if self.threshold else 0

    def take(self, vector: Floats, start: int) -> Floats:
        """The part of a block that is kept, unscaled; blocks come in order."""
        if self.threshold is not None:
            found, used = keep_largest(vector, self.threshold, self._ties)
            self._ties -= used
            return found
        if self.probability:
            return keep_at(vector, _drawn(self.probability, self.key, start, start + vector.size))
        return vector


def _drawn(probability: int, key: int, start: int, stop: int) -> U64:
    """Kept entries of a range of a Bernoulli mask, counted from its start."""
    count = kernels.bernoulli_counts(probability, key, start, stop)
    return kernels.bernoulli(probability, key, start, stop, count) - np.uint64(start)


class Blend:
    """A tensor to be merged. `factors` are what each model's kept differences are multiplied by."""

    def __init__(self, joint: Joint, mix: Mix, base: Variant | None, variants: Sequence[Variant]) -> None:
        self._joint, self._mix, self._base, self._variants = joint, mix, base, variants
        dtypes = [variant.specs[name].dtype for variant, name in zip(variants, joint.names, strict=True)]
        if base is not None and joint.base_name is not None:
            dtypes.append(base.specs[joint.base_name].dtype)
        self._float: Any = np.float64 if mix.wide or "F64" in dtypes else np.float32
        self._kept = [self._select(number) for number in range(len(variants))]

    @property
    def factors(self) -> list[float]:
        """What each model's kept differences are multiplied by."""
        return [kept.factor for kept in self._kept]

    def _select(self, number: int) -> _Kept:
        mix, size = self._mix, self._joint.spec.size
        density = mix.densities[number]
        if mix.way.trim == "none" or density >= 1 or size == 0:
            return _Kept()
        factor = 1.0
        if mix.way.trim == "magnitude":
            kept = _Kept(threshold=scores.largest(lambda: self._narrow(number), keep=trimmed_count(density, size)))
        else:
            chance = threshold(Bernoulli(keep=density))
            kept = _Kept(probability=chance, key=seeds.key(mix.seed + number, self._joint.name))
            factor = RANGE / chance
        if mix.rescaling == "l1":
            kept.factor = l1_factor(*self._norms(number, kept))
        elif mix.rescaling == "dare":
            kept.factor = factor
        return kept

    def _norms(self, number: int, kept: _Kept) -> tuple[float, float]:
        """L1 norms of a task vector and of its kept part."""
        before = after = 0.0
        kept.restart()
        start = 0
        for vector in self._vectors(number):
            before += float(np.abs(vector).sum(dtype=np.float64))
            after += float(np.abs(kept.take(vector, start)).sum(dtype=np.float64))
            start += vector.size
        return before, after

    def _narrow(self, number: int) -> Iterator[F32]:
        for vector in self._vectors(number):
            yield vector.astype(np.float32, copy=False)

    def _vectors(self, number: int) -> Iterator[Floats]:
        """The task vector of one model."""
        for base, tuned in zip(self._base_floats(), self._floats(number), strict=True):
            yield tuned - base

    def _floats(self, number: int) -> Iterator[Floats]:
        name = self._joint.names[number]
        return self._read(self._variants[number], name)

    def _base_floats(self) -> Iterator[Floats]:
        if self._base is None or self._joint.base_name is None:
            raise ValueError(f"{self._joint.name} has no base tensor")
        return self._read(self._base, self._joint.base_name)

    def _read(self, variant: Variant, name: str) -> Iterator[Floats]:
        dtype = variant.specs[name].dtype
        for block in variant.blocks(name):
            if not kernels.all_finite(block, dtype):
                raise PlanError(self._joint.name, f"{variant.title} holds NaN or infinity in it", fix=FINITE)
            yield widened(block, dtype, self._float)

    def blocks(self, dtype: str) -> Iterator[Bits]:
        """The merged tensor, rounded once to `dtype`. Raises PlanError for NaN and infinity, going in or coming out."""
        streams = [self._floats(number) for number in range(len(self._variants))]
        merged = self._merged(streams) if self._mix.way.vectors else self._averaged(streams)
        for floats in merged:
            bits = rounded(floats, dtype)
            if not kernels.all_finite(bits, dtype):
                fix = "lower the weights or lambda, or write it in a wider type with --dtype"
                raise PlanError(self._joint.name, f"a merged entry is not finite in {dtype}", fix=fix)
            yield bits

    def _averaged(self, streams: Sequence[Iterator[Floats]]) -> Iterator[Floats]:
        for models in zip(*streams, strict=True):
            yield average(np.stack(models), self._mix.weights, normalize=self._mix.normalize)

    def _merged(self, streams: Sequence[Iterator[Floats]]) -> Iterator[Floats]:
        mix, start = self._mix, 0
        for kept in self._kept:
            kept.restart()
        for base, *models in zip(self._base_floats(), *streams, strict=True):
            vectors = np.empty((len(models), base.size), self._float)
            for row, tuned, kept in zip(vectors, models, self._kept, strict=True):
                part = kept.take(tuned - base, start)
                np.multiply(part, row.dtype.type(kept.factor), out=row)
            consensus = mix.consensus if mix.way.elect else None
            yield base + combine(vectors, mix.weights, consensus=consensus, normalize=mix.normalize, scale=mix.scale)
            start += base.size


def widened(bits: Bits, dtype: str, wide: Any) -> Floats:
    """Bit patterns as floats of `wide` (float32 or float64)."""
    if dtype == "BF16" and wide == np.float32:
        words = bits.astype(np.uint32)
        words <<= np.uint32(16)
        return words.view(np.float32)
    return as_floats(bits, dtype).astype(wide)


def agreed(joint: Joint, base: Variant | None, variants: Sequence[Variant]) -> Iterator[Bits]:
    """A tensor that is not floating, on which base and models must agree. Raises PlanError, naming who does not."""
    sides = list(zip(variants, joint.names, strict=True))
    if base is not None and joint.base_name is not None:
        sides.insert(0, (base, joint.base_name))
    for blocks in zip(*(variant.blocks(name) for variant, name in sides), strict=True):
        for block, (variant, _) in zip(blocks, sides, strict=True):
            if not np.array_equal(block, blocks[0]):
                raise PlanError(
                    joint.name, f"is {joint.spec.dtype}, which cannot be merged, and differs between "
                    f"{sides[0][0].title} and {variant.title}",
                    fix="take it as one model has it with --heads N (the number of an input), or --heads base",
                )  # fmt: skip
        yield blocks[0]


def copied(joint: Joint, form: Variant, dtype: str) -> Iterator[Bits]:
    """A tensor as the form has it, rounded to `dtype` where that is another float type."""
    own = joint.spec.dtype
    for block in form.blocks(joint.own):
        bits = convert(block, own, dtype)
        if bits is not block and kernels.all_finite(block, own) and not kernels.all_finite(bits, dtype):
            raise PlanError(joint.name, f"an entry is too large for {dtype}", fix="write a wider type with --dtype")
        yield bits
