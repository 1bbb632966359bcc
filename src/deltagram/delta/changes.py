"""What a delta changes in arrays of its base, entry by entry: what to write, and what stands there before."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import U64, Bits, Spec
from deltagram.delta import kernels
from deltagram.delta.difference import restore_distance, shifted
from deltagram.delta.lowrank import moved
from deltagram.delta.stored import Distances, LowRank, Pruned, Stored, Whole
from deltagram.errors import PatchError
from deltagram.threads import ordered

Positions = NDArray[np.uint32] | U64
Arrays = Mapping[str, tuple[Spec, Bits]]  # by name: what an array is, and its flat bit patterns


@dataclass(frozen=True, kw_only=True)
class Change:
    """The entries of one array that a variant changes, before and after.

    Positions ascend; None stands for all entries.
    """

    name: str
    positions: Positions | None
    before: Bits
    after: Bits

    @property
    def nbytes(self) -> int:
        """Memory held."""
        positions = 0 if self.positions is None else self.positions.nbytes
        return positions + self.before.nbytes + self.after.nbytes


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A variant prepared for one set of arrays: what to write, and what stood there."""

    changes: Mapping[str, Change]

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(change.nbytes for change in self.changes.values())


NOTHING: Final = Patch(changes={})


def changes(arrays: Arrays, stored: Mapping[str, Stored], *, threads: int, current: Patch = NOTHING) -> Patch:
    """What `stored` writes over the base in `arrays`, which are only read; `current` is what stands on the base there.

    Raises PatchError, naming the tensor, where the arrays cannot hold the variant.
    """
    targets = {name: _target(name, tensor, arrays) for name, tensor in stored.items()}
    _check_memory(targets, arrays)

    def one(name: str) -> Change:
        target = targets[name]
        return _change(target, stored[name], arrays[target][1], current.changes.get(target))

    return Patch(changes={change.name: change for change in ordered(one, stored, threads=threads)})


def _target(name: str, tensor: Stored, arrays: Arrays) -> str:
    """The array a tensor goes to. Raises PatchError if there is none that can hold it."""
    found = name if name in arrays else tensor.base_name
    if found not in arrays:
        raise PatchError(name, "is not among the live arrays", fix="load the base in the fine-tuned model's class")
    spec = arrays[found][0]
    if spec != tensor.spec:
        raise PatchError(name, f"the live array is {spec}", expected=str(tensor.spec), fix="restore it instead")
    if not isinstance(tensor, Whole) and tensor.base.dtype != tensor.spec.dtype:
        raise PatchError(
            name, f"restores {tensor.spec.dtype} from a {tensor.base.dtype} base, which no array in place can be",
            fix="restore it instead",
        )  # fmt: skip
    return found


def _change(target: str, tensor: Stored, array: Bits, current: Change | None) -> Change:
    if isinstance(tensor, Pruned):
        positions = _positions(tensor)
        before = array[positions]
        if current is not None:
            _look_under(before, positions, current)
        kept = tensor.values.size
        rows = tensor.spec.shape[0] if tensor.spec.shape else 1
        divisor = tensor.divide_by
        if divisor.ndim:
            divisor = divisor[positions[:kept] // max(1, tensor.spec.size // rows)]
        after = shifted(before[:kept], tensor.spec.dtype, tensor.values, divisor)
        _check_finite(target, after, tensor.spec)
        after = after if tensor.rows is None else np.concatenate([after, tensor.rows])
        return Change(name=target, positions=positions, before=before, after=after)
    before = array.copy()
    if current is not None:
        before[slice(None) if current.positions is None else current.positions] = current.before
    return Change(name=target, positions=None, before=before, after=_all_after(target, tensor, before))


def _all_after(target: str, tensor: Distances | LowRank | Whole, before: Bits) -> Bits:
    """Every entry of a tensor that is not pruned, over the base's entries `before`."""
    if isinstance(tensor, Distances):
        return restore_distance(before, tensor.words, floating=tensor.spec.floating)
    if isinstance(tensor, Whole):
        return np.array(tensor.bits)
    after = moved(before, tensor.spec.dtype, tensor.factors().entries(0, tensor.spec.size), tensor.spec.dtype)
    _check_finite(target, after, tensor.spec)
    return after


def _check_finite(target: str, after: Bits, spec: Spec) -> None:
    if not kernels.all_finite(after, spec.dtype):
        raise PatchError(target, "a restored entry is not finite", fix="rescale the delta")


def _positions(tensor: Pruned) -> Positions:
    """Kept positions, and those of the rows that the base lacks; 32 bits each where that is enough."""
    found: Positions = tensor.mask.positions(0, tensor.mask.keep)
    if tensor.spec.size <= 1 << 32:
        found = found.astype(np.uint32)
    if tensor.rows is None:
        return found
    return np.concatenate([found, np.arange(tensor.spec.size - tensor.rows.size, tensor.spec.size, dtype=found.dtype)])


def _look_under(before: Bits, positions: Positions, current: Change) -> None:
    """Replace what `current` wrote at `positions` by what stood there before it."""
    if current.positions is None:
        before[:] = current.before[positions]
        return
    at = np.searchsorted(current.positions, positions)
    at[at == current.positions.size] = 0
    shared = current.positions[at] == positions if current.positions.size else np.zeros(positions.size, bool)
    before[shared] = current.before[at[shared]]


def _check_memory(targets: Mapping[str, str], arrays: Arrays) -> None:
    """Raise PatchError if two tensors of a delta would go to the same memory."""
    seen: dict[int, str] = {}
    for name, target in targets.items():
        bits = arrays[target][1]
        other = seen.setdefault(bits.ctypes.data, name) if bits.size else name
        if other != name:
            raise PatchError(name, f"shares its memory with {other}, but the delta tells them apart", fix="untie them")
