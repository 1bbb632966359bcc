"""The stored form of a tensor that an adapter's factors are kept of: each is pruned by itself."""

from collections.abc import Iterable

import numpy as np

from deltagram import seeds
from deltagram.arrays import F32, U64, Spec
from deltagram.delta import kernels, masks, scores
from deltagram.delta.masks import Bernoulli, Mask, Stratified
from deltagram.delta.methods import kept_count, threshold
from deltagram.delta.plan import Entry
from deltagram.delta.rescale import default_divisor
from deltagram.delta.values import Codebook, fit_codebook, histogram
from deltagram.errors import PlanError
from deltagram.store.adapter import Adapted
from deltagram.store.codecs import ValueWriter
from deltagram.store.deltawriter import NewPart, sized
from deltagram.store.masks import BernoulliMask, ListedMask, StratifiedMask
from deltagram.store.outline import UNKNOWN, factor_fields, identity
from deltagram.store.positions import PositionEncoder
from deltagram.store.scan import FIX, Pair
from deltagram.store.tensors import LowRankTensor, SameTensor, StoredFactor, StoredValues

_Part = tuple[Spec, Iterable[bytes | memoryview]]
_Described = BernoulliMask | ListedMask | StratifiedMask


def low_rank(entry: Entry, pair: Pair) -> tuple[LowRankTensor | SameTensor, list[NewPart], dict[str, float]]:
    """Manifest entry, parts, and the divisor of each factor. Raises PlanError, naming the tensor or the factor."""
    if not isinstance(pair.tuned, Adapted) or entry.factors is None or entry.base is None:
        raise PlanError(entry.name, "is to be stored as low_rank, but there are no factors of it")
    source, factors = entry.base_name or entry.name, pair.tuned.products[entry.name]
    _check_base(entry, pair, source, entry.base)
    fields = identity(entry, entry.base, pair.base.digest(source))
    if factors.nothing:
        return SameTensor.model_validate(fields), [], {}
    stored: dict[str, StoredFactor] = {}
    parts: dict[str, _Part] = {}
    divisors: dict[str, float] = {}
    for letter, factor in (("A", factors.a), ("B", factors.b)):
        unit, flat = f"{entry.name}:{letter}", np.ascontiguousarray(factor).reshape(-1)
        try:
            described, mask, extra = _mask(entry, flat, seeds.key(pair.seed, unit))
            parts[f"{letter}:values"] = _coded(flat[mask.positions(0, mask.keep)], entry, pair)
        except ValueError as fault:
            raise PlanError(unit, str(fault), fix=FIX.format(name=entry.name)) from None
        parts |= {f"{letter}:{suffix}": part for suffix, part in extra.items()}
        stored[letter] = StoredFactor(mask=described, values=StoredValues.of(entry.values, pack=pair.pack))
        divisors[unit] = entry.divide_by if entry.divide_by is not None else default_divisor(entry.method, flat.size)
    tensor = LowRankTensor.model_validate(fields | factor_fields(entry.factors) | stored | {"digest": UNKNOWN})
    return tensor, sized(parts), divisors


def _check_base(entry: Entry, pair: Pair, source: str, spec: Spec) -> None:
    for start, stop in pair.base.spans(source):
        if not kernels.all_finite(pair.base.bits(source, start, stop), spec.dtype):
            found = "the base tensor holds NaN or infinity, which pruning cannot keep"
            raise PlanError(entry.name, found, fix=FIX.format(name=entry.name))


def _mask(entry: Entry, flat: F32, key: int) -> tuple[_Described, Mask, dict[str, _Part]]:
    """The mask of one factor: as the manifest has it, as it is used, and the parts it needs."""
    if entry.method.mask == "listed":
        keep = kept_count(entry.method, flat.size)
        found = scores.largest(lambda: [flat], keep=keep)
        positions = np.concatenate([kept for kept, _ in scores.kept([(flat, flat)], found)])
        encoder = PositionEncoder(size=flat.size, keep=keep)
        encoder.add(positions)
        coding, blob = encoder.finish()
        chosen = _Chosen(positions, size=flat.size)
        described = ListedMask(keep=keep, score="magnitude", coding=coding, check=masks.check(chosen))
        return described, chosen, {"positions": (Spec(dtype="U8", shape=(len(blob),)), [blob])}
    if entry.method.mask == "stratified":
        strata = Stratified(size=flat.size, keep=kept_count(entry.method, flat.size), key=key)
        return StratifiedMask(keep=strata.keep, check=masks.check(strata)), strata, {}
    drawn = Bernoulli.draw(size=flat.size, key=key, threshold=threshold(entry.method))
    counts = (Spec(dtype="U32", shape=(len(drawn.counts),)), [np.array(drawn.counts, "<u4").tobytes()])
    said = BernoulliMask(threshold=drawn.threshold, keep=drawn.keep, check=masks.check(drawn))
    return said, drawn, {"counts": counts}


class _Chosen:
    """A mask that is its positions."""

    def __init__(self, positions: U64, *, size: int) -> None:
        self._positions, self.size, self.keep = positions, size, positions.size

    def positions(self, first: int, last: int) -> U64:
        """Positions of kept entries `first` to `last - 1`."""
        return self._positions[first:last]

    def count_before(self, entry: int) -> int:
        """Number of kept entries at positions below `entry`."""
        return int(np.searchsorted(self._positions, entry))


def _coded(values: F32, entry: Entry, pair: Pair) -> _Part:
    """The `values` part of a factor."""
    setting, book = entry.values, None
    if isinstance(setting, Codebook):
        counts = histogram(values)
        if counts[0x7F80] or counts[0xFF80]:
            raise ValueError("an entry is too large for a codebook")
        book = fit_codebook(counts, setting)
    writer = ValueWriter(setting, pack=pair.pack, folder=pair.folder, book=book)
    writer.add(values)
    return writer.finish()
