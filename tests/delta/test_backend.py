"""Kernels where numba cannot cache, under many threads, and in forked workers."""

import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_checkpoint
from deltagram.delta import backend, kernels
from deltagram.jobs import prune


def work(key: int) -> bytes:
    """Positions and quantised values: two families of kernels."""
    positions = kernels.stratified(1_000_000, 10_000, key, 0, 10_000)
    fields, scales = kernels.quantise(positions.astype(np.float32), bits=4, group=64, shrink=np.ones(1, np.float32))
    return positions.tobytes() + fields.tobytes() + scales.tobytes()


def test_many_threads_at_once_give_what_one_gives() -> None:
    alone = [work(key) for key in range(32)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(32))) == alone


def test_forked_workers_give_what_the_parent_gives() -> None:
    alone = [work(key) for key in range(6)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work, range(6)) == alone


def test_where_numba_cannot_cache_numpy_gives_the_same_bytes(tmp_path: Path) -> None:
    """A process in which numba finds no place to cache says so, and prunes to the same file."""
    rng = np.random.default_rng(0)
    base = {"w": rng.standard_normal((300, 200)).astype(np.float32)}
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "tuned", {"w": base["w"] + np.float32(0.01)})
    prune(tmp_path / "base", tmp_path / "tuned", tmp_path / "here", keep=0.1, values="4bit")
    script = (
        "from numba.core import caching; caching.CacheImpl._locator_classes = []\n"
        "from deltagram.jobs import prune\n"
        "class Heard:\n"
        "    def advance(self, *_): pass\n"
        "    def say(self, text): print(text)\n"
        "record = prune('base', 'tuned', 'there', keep=0.1, values='4bit', progress=Heard())\n"
        "print(record.numbers['kernels'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert "numba cannot be used here" in done.stdout
    assert done.stdout.splitlines()[-1] == "numpy"
    payload = "delta.safetensors"
    assert (tmp_path / "here" / payload).read_bytes() == (tmp_path / "there" / payload).read_bytes()


def test_a_slow_compilation_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    class Heard:
        def advance(self, what: str, done: int, total: int) -> None: ...

        def say(self, text: str) -> None:
            heard.append(text)

    def slow(name: str) -> object:
        time.sleep(0.2)
        return backend._import(f"{name}_numpy")

    monkeypatch.setattr(backend, "ANNOUNCE_AFTER", 0.05)
    monkeypatch.setattr(backend, "family", slow)
    assert backend.prepare(("gaps",), progress=Heard()) == "numpy"
    assert heard
    assert "Compiling" in heard[0]
