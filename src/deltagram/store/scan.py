"""One pass over a pair of tensors: the base is hashed and both are searched for faults as they are read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deltagram.arrays import DTYPES, F32, U64, Bits, convert, entries
from deltagram.delta import kernels
from deltagram.delta.difference import difference
from deltagram.delta.lowrank import narrowed
from deltagram.delta.plan import Entry
from deltagram.delta.scores import InputNorms
from deltagram.errors import PlanError
from deltagram.store.adapter import Adapted, Tuned
from deltagram.store.checkpoint import BLOCK_BYTES, Checkpoint
from deltagram.store.digest import tensor_hasher

_NOWHERE = np.empty(0, np.uint64)
FIX = "store it whole with --whole '{name}', or everything with --method exact"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The two checkpoints, the seed, where spooled bytes may lie; what else is known of tensors, by name.

    `compact`: the manifest is compressed. `norms` are input norms for methods that weigh by them; `fitted` are values
    to keep in the place of the differences.
    """

    base: Checkpoint
    tuned: Tuned
    seed: int
    pack: bool
    folder: Path
    compact: bool = False
    norms: Mapping[str, InputNorms] = field(default_factory=dict)
    fitted: Mapping[str, F32] = field(default_factory=dict)


class Scan:
    """Passes once over the common entries of a tensor pair, hashing the base and looking for faults."""

    def __init__(self, pair: Pair, entry: Entry) -> None:
        self._pair, self._entry = pair, entry
        self.base_name = entry.base_name or entry.name
        self.base_spec = entry.base or entry.tuned
        self.same = self.base_spec.shape == entry.tuned.shape
        self.base_finite = self.base_fits = self.tuned_finite = True
        self._hasher = tensor_hasher(self.base_name, self.base_spec)
        tuned = pair.tuned
        self._product = tuned.products.get(entry.name) if isinstance(tuned, Adapted) else None

    def spans(self, *, multiple: int = 1) -> Iterator[tuple[int, int]]:
        """Entry ranges of about one mebibyte, of whole rows where a row has `multiple` entries."""
        size = entries(self._entry.common)
        widest = max(DTYPES[s.dtype].bits.itemsize for s in (self.base_spec, self._entry.tuned))
        step = max(1, BLOCK_BYTES // widest // multiple) * multiple
        return ((start, min(start + step, size)) for start in range(0, size, step))

    def pair(self, start: int, stop: int) -> tuple[Bits, Bits]:
        """Base and tuned bit patterns of a range, without looking at them."""
        return self._pair.base.bits(self.base_name, start, stop), self._pair.tuned.bits(self._entry.name, start, stop)

    def take(self, start: int, stop: int) -> tuple[Bits, Bits]:
        """`pair`, hashed and searched; call for every range once, in order."""
        base, tuned = self.pair(start, stop)
        if self._entry.tuned.floating and self.base_spec.floating:
            self._search(base, tuned, _NOWHERE, start)
        self._compare(base, tuned)
        return base, tuned

    def gather(self, start: int, stop: int, positions: U64) -> F32:
        """Like `take`, of two floating tensors: the differences at positions of the range."""
        if self._product is not None:
            self._look(start, stop)
            return narrowed(self._product.at(positions))
        base, tuned = self.pair(start, stop)
        found = self._search(base, tuned, positions, start)
        self._compare(base, tuned)
        return found

    def differences(self, start: int, stop: int, *, first: bool) -> F32:
        """All differences of a range; with `first` it is taken, else only read.

        What an adapter adds comes from its factors, so that no rounding to the base's dtype is between.
        """
        if self._product is not None:
            if first:
                self._look(start, stop)
            return narrowed(self._product.entries(start, stop))
        base, tuned = (self.take if first else self.pair)(start, stop)
        return difference(base, self.base_spec.dtype, tuned, self._entry.tuned.dtype)

    def _look(self, start: int, stop: int) -> None:
        """Hash and search the base alone: factors are known to be finite, and zero or not."""
        base = self._pair.base.bits(self.base_name, start, stop)
        self._hasher.update(base.view(np.uint8).data)
        self.base_finite &= kernels.all_finite(base, self.base_spec.dtype)
        self.same = self._product is not None and self._product.nothing

    def _search(self, base: Bits, tuned: Bits, positions: U64, origin: int) -> F32:
        found, base_finite, tuned_finite = kernels.survey(
            base, self.base_spec.dtype, tuned, self._entry.tuned.dtype, positions, origin
        )
        self.base_finite &= base_finite
        if self.base_spec.dtype != self._entry.tuned.dtype:
            self.base_fits &= kernels.all_finite(self.as_tuned(base), self._entry.tuned.dtype)
        self.tuned_finite &= tuned_finite
        return found

    def _compare(self, base: Bits, tuned: Bits) -> None:
        self._hasher.update(base.view(np.uint8).data)
        if self.same:
            self.same = np.array_equal(self.as_tuned(base), tuned)

    def as_tuned(self, base: Bits) -> Bits:
        """Base patterns rounded to the tuned dtype."""
        if self.base_spec.dtype == self._entry.tuned.dtype:
            return base
        if not (self.base_spec.floating and self._entry.tuned.floating):
            return np.empty(0, np.uint8)  # other types are never equal
        return convert(base, self.base_spec.dtype, self._entry.tuned.dtype)

    def digest(self) -> str:
        """The base tensor's digest, once all ranges were taken (rows beyond the common ones are added here)."""
        raw = self._pair.base.views[self.base_name]
        read = entries(self._entry.common) * DTYPES[self.base_spec.dtype].width // 8
        self._hasher.update(raw[read:])
        return self._hasher.hexdigest()

    def check_finite(self) -> None:
        """Raise PlanError if either side holds NaN or infinity."""
        if not (self.base_finite and self.tuned_finite):
            side = "the fine-tuned tensor" if not self.tuned_finite else "the base tensor"
            name = self._entry.name
            raise PlanError(name, f"{side} holds NaN or infinity, which pruning cannot keep", fix=FIX.format(name=name))
        if not self.base_fits:
            name, dtype = self._entry.name, self._entry.tuned.dtype
            raise PlanError(name, f"an entry of the base is too large for {dtype}", fix=FIX.format(name=name))
