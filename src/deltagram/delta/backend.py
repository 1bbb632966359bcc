"""Which implementation of the kernels runs: numba loops, or their plain NumPy twins.

Each kernel family `F` has two files with the same functions: `F_numba.py`, loops compiled once with
explicit signatures, `nogil` and cached on disk; and `F_numpy.py`, the fallback where numba cannot
compile or cache, and the oracle in the tests. Both give the same bits.
"""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Literal

from deltagram.progress import SILENT, Progress

FAMILIES = ("positions", "entries", "codes", "gaps", "scores")
ANNOUNCE_AFTER = 1.0  # seconds

_lock = threading.RLock()
_loaded: dict[str, ModuleType] = {}
_reasons: dict[str, str] = {}
_forced: list[str] = []


def _import(name: str) -> ModuleType:
    return importlib.import_module(f"deltagram.delta.{name}")


def family(name: str) -> ModuleType:
    """The module that implements family `name` now; compiles it at first use."""
    if _forced:
        return _import(f"{name}_{_forced[-1]}")
    module = _loaded.get(name)
    if module is None:
        with _lock:
            module = _loaded[name] = _load(name)
    return module


def _load(name: str) -> ModuleType:
    try:
        return _import(f"{name}_numba")
    except (ImportError, OSError, RuntimeError) as fault:  # numba absent, cache unwritable, or no compilation
        _reasons[name] = f"{type(fault).__name__}: {fault}".splitlines()[0]
        return _import(f"{name}_numpy")


def prepare(families: tuple[str, ...] = FAMILIES, *, progress: Progress = SILENT) -> str:
    """Make the kernels of `families` ready and return which kind runs: "numba" or "numpy".

    The first time on a machine this compiles for some seconds and says so; later it loads the cache.
    """
    notice = threading.Timer(
        ANNOUNCE_AFTER,
        progress.say,
        ["Compiling numba kernels (once on this machine, well under a minute) ..."],
    )
    notice.daemon = True
    notice.start()
    try:
        modules = [family(name) for name in families]
    finally:
        notice.cancel()
    if _reasons and not _forced:
        why = next(iter(_reasons.values()))
        progress.say(f"numba cannot be used here ({why}); the NumPy kernels give the same bytes, slower.")
    return "numba" if all(module.__name__.endswith("_numba") for module in modules) else "numpy"


@contextmanager
def using(kind: Literal["numba", "numpy"]) -> Iterator[None]:
    """Run with one kind of kernel, whatever the machine could do (for tests and comparisons)."""
    _forced.append(kind)
    try:
        yield
    finally:
        _forced.pop()
