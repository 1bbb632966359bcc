"""Variants in memory, the least recently used out first."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from deltagram.serve.variant import Variant


@dataclass(eq=False)
class Cache:
    """Variants by name and payload digest, `memory` bytes of them at most (one may be larger, if it is alone).

    A variant that goes out lives on where it is in use. Two requests for one that is not there load it once.
    """

    memory: int
    loads: int = 0
    evictions: int = 0
    _held: "OrderedDict[str, tuple[str, Variant]]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _loading: dict[str, threading.Lock] = field(default_factory=dict)

    def get(self, name: str, digest: str, make: Callable[[], Variant]) -> Variant:
        """The variant, loaded by `make` unless it is here with this payload. Raises what `make` raises."""
        found = self._used(name, digest)
        if found is not None:
            return found
        with self._lock:
            gate = self._loading.setdefault(name, threading.Lock())
        with gate:
            found = self._used(name, digest)
            if found is None:
                found = make()
                self._put(name, digest, found)
        return found

    def _used(self, name: str, digest: str) -> Variant | None:
        with self._lock:
            if name in self._held and self._held[name][0] == digest:
                self._held.move_to_end(name)
                self._evict()  # what is here grows when a batch first mixes it
                return self._held[name][1]
        return None

    def _put(self, name: str, digest: str, variant: Variant) -> None:
        with self._lock:
            self._held[name] = (digest, variant)
            self._held.move_to_end(name)
            self.loads += 1
            self._evict()

    def _evict(self) -> None:
        while len(self._held) > 1 and self._bytes() > self.memory:
            self._held.popitem(last=False)
            self.evictions += 1

    def drop(self, name: str) -> None:
        """Take a variant out; nothing where it is not in."""
        with self._lock:
            self._held.pop(name, None)

    def held(self) -> dict[str, int]:
        """Names and bytes of what is in memory."""
        with self._lock:
            return {name: variant.nbytes for name, (_, variant) in self._held.items()}

    def _bytes(self) -> int:
        return sum(variant.nbytes for _, variant in self._held.values())
