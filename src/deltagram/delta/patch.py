"""Deltas applied to live arrays in place: apply, swap, revert; bit-exact, transactional, O(kept).

A model is patched through its memory, under its own feet: hold requests while a patch moves.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from deltagram.arrays import Bits
from deltagram.delta import kernels
from deltagram.delta.changes import NOTHING, Change, Patch, Positions, changes
from deltagram.delta.live import views
from deltagram.delta.stored import Loads, Stored
from deltagram.errors import PatchError
from deltagram.threads import default_threads, ordered


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
        return changes(self._arrays, stored, threads=self._threads, current=self.current or NOTHING)

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
