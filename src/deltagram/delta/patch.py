"""Deltas applied to live arrays in place: apply, swap, revert; bit-exact, transactional, O(kept).

A model is patched through its memory, under its own feet: hold requests while a patch moves.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import U64, Bits, Spec
from deltagram.delta import kernels
from deltagram.delta.difference import restore_distance, shifted
from deltagram.delta.live import views
from deltagram.delta.lowrank import moved
from deltagram.delta.stored import Distances, Loads, LowRank, Pruned, Stored, Whole
from deltagram.errors import PatchError
from deltagram.threads import default_threads, ordered

Positions = NDArray[np.uint32] | U64


@dataclass(frozen=True, kw_only=True)
class Change:
    """The entries of one live array that a variant changes, before and after.

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
    """A variant prepared for one set of live arrays: what to write, and what stood there."""

    changes: Mapping[str, Change]

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(change.nbytes for change in self.changes.values())


class Live:
    """Arrays that are in use, and which variant is on them.

    `model_or_state` is a torch module on the CPU, or a mapping from names to arrays or tensors; its tensors are
    those of the base, in the dtype the delta restores.
    """

    def __init__(self, model_or_state: object, *, threads: int | None = None) -> None:
        self._arrays = views(model_or_state)
        self._threads = threads or default_threads()
        self.current: Patch | None = None

    def prepare(self, delta: Loads | Mapping[str, Stored]) -> Patch:
        """Decode a delta against the base under these arrays (whatever variant is on them now).

        Raises PatchError, naming the tensor, where the arrays cannot hold the variant.
        """
        stored = delta if isinstance(delta, Mapping) else delta.load()
        targets = {name: self._target(name, tensor) for name, tensor in stored.items()}
        _check_memory(targets, self._arrays)
        work = ordered(lambda name: self._change(targets[name], stored[name]), stored, threads=self._threads)
        return Patch(changes={change.name: change for change in work})

    def swap(self, patch: Patch | None) -> None:
        """Take off the variant that is on, and put on `patch` (None: the base is back, bit for bit).

        Raises PatchError, and leaves everything as it was, if an array no longer holds what it should.
        """
        off = {} if self.current is None else self.current.changes
        on = {} if patch is None else patch.changes
        names = [*off, *(name for name in on if name not in off)]
        groups = self._shares(names, lambda name: sum(len(c.after) for c in (off.get(name), on.get(name)) if c))
        work = ordered(
            lambda share: {name: self._exchange(off.get(name), on.get(name)) for name in share},
            groups, threads=self._threads,
        )  # fmt: skip
        faults = {name: fault for share in work for name, fault in share.items()}
        for name, fault in faults.items():
            if fault >= 0:
                for other in names:
                    if faults[other] < 0:
                        self._exchange(on.get(other), off.get(other))
                raise PatchError(name, f"entry {fault} was changed by someone else", fix="load the base anew")
        self.current = patch

    def _shares(self, names: list[str], weight: Callable[[str], int]) -> list[list[str]]:
        """The names in one group a thread, of about equal weight: a task a tensor would cost more than its work."""
        groups: list[tuple[int, list[str]]] = [(0, []) for _ in range(self._threads)]
        for name in sorted(names, key=weight, reverse=True):
            index = min(range(len(groups)), key=lambda i: groups[i][0])
            groups[index] = (groups[index][0] + weight(name), [*groups[index][1], name])
        return [group for _, group in groups if group]

    def _target(self, name: str, tensor: Stored) -> str:
        """The live array a tensor goes to. Raises PatchError if there is none that can hold it."""
        found = name if name in self._arrays else tensor.base_name
        if found not in self._arrays:
            raise PatchError(name, "is not among the live arrays", fix="load the base in the fine-tuned model's class")
        spec = self._arrays[found][0]
        if spec != tensor.spec:
            raise PatchError(name, f"the live array is {spec}", expected=str(tensor.spec), fix="restore it instead")
        if not isinstance(tensor, Whole) and tensor.base.dtype != tensor.spec.dtype:
            raise PatchError(
                name, f"restores {tensor.spec.dtype} from a {tensor.base.dtype} base, which no array in place can be",
                fix="restore it instead",
            )  # fmt: skip
        return found

    def _change(self, target: str, tensor: Stored) -> Change:
        live = self._arrays[target][1]
        current = None if self.current is None else self.current.changes.get(target)
        if isinstance(tensor, Pruned):
            positions = _positions(tensor)
            before = live[positions]
            if current is not None:
                _look_under(before, positions, current)
            kept = tensor.values.size
            rows = tensor.spec.shape[0] if tensor.spec.shape else 1
            divisor = tensor.divide_by
            if divisor.ndim:
                divisor = divisor[positions[:kept] // max(1, tensor.spec.size // rows)]
            after = shifted(before[:kept], tensor.spec.dtype, tensor.values, divisor)
            if not kernels.all_finite(after, tensor.spec.dtype):
                raise PatchError(target, "a restored entry is not finite", fix="rescale the delta")
            after = after if tensor.rows is None else np.concatenate([after, tensor.rows])
            return Change(name=target, positions=positions, before=before, after=after)
        before = live.copy()
        if current is not None:
            before[slice(None) if current.positions is None else current.positions] = current.before
        if isinstance(tensor, Distances):
            after = restore_distance(before, tensor.words, floating=tensor.spec.floating)
        elif isinstance(tensor, LowRank):
            product = tensor.factors().entries(0, tensor.spec.size)
            after = moved(before, tensor.spec.dtype, product, tensor.spec.dtype)
            if not kernels.all_finite(after, tensor.spec.dtype):
                raise PatchError(target, "a restored entry is not finite", fix="rescale the delta")
        else:
            after = np.array(tensor.bits)
        return Change(name=target, positions=None, before=before, after=after)

    def _exchange(self, off: Change | None, on: Change | None) -> int:
        """Take `off` off one array and put `on` on; -1, or the entry that was not as expected (then nothing moved)."""
        bits = self._arrays[(off or on or _nothing()).name][1]
        if off is not None and on is not None and off.positions is not None and on.positions is not None:
            return kernels.exchange(
                bits, off.positions, off.after, off.before, on.positions, on.before, on.after,
            )  # fmt: skip
        fault = -1 if off is None else _put(bits, off.positions, off.after, off.before)
        if fault < 0 and on is not None:
            fault = _put(bits, on.positions, on.before, on.after)
            if fault >= 0 and off is not None:
                _put(bits, off.positions, off.before, off.after)
        return fault


def _nothing() -> Change:
    raise ValueError("neither a patch to take off nor one to put on")


def _put(bits: Bits, positions: Positions | None, expected: Bits, new: Bits) -> int:
    """Write `new` where `expected` stands; -1, or the first entry that differs (then nothing is written)."""
    if positions is not None:
        none = positions[:0]
        return kernels.exchange(bits, none, bits[:0], bits[:0], positions, expected, new)
    if not np.array_equal(bits, expected):
        return int(np.flatnonzero(bits != expected)[0])
    np.copyto(bits, new)
    return -1


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


def _check_memory(targets: Mapping[str, str], arrays: Mapping[str, tuple[Spec, Bits]]) -> None:
    """Raise PatchError if two tensors of a delta would go to the same memory."""
    seen: dict[int, str] = {}
    for name, target in targets.items():
        bits = arrays[target][1]
        other = seen.setdefault(bits.ctypes.data, name) if bits.size else name
        if other != name:
            raise PatchError(name, f"shares its memory with {other}, but the delta tells them apart", fix="untie them")


@contextmanager
def applied(model_or_state: object, delta: Loads | Mapping[str, Stored]) -> Iterator[Patch]:
    """The variant on the live arrays inside the block; the base again, bit for bit, after it.

    Raises PatchError where the arrays cannot hold the variant; then nothing was changed.
    """
    live = Live(model_or_state)
    patch = live.prepare(delta)
    live.swap(patch)
    try:
        yield patch
    finally:
        live.swap(None)
