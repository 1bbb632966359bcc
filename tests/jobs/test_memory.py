"""Peak memory is a few blocks, not a model: anonymous memory is watched while a job runs in a fresh process."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from deltagram.arrays import Spec
from deltagram.store.layout import lay_out

MEGABYTE = 10**6
ROW = 1024  # entries: 2,048 bytes
# Runs a job once on a tiny pair (which loads all code), then on the large one, and prints how many bytes of
# anonymous memory the second run needed at its peak beyond what there was before it.
WATCH = """
import json, sys, threading
from deltagram import jobs
from deltagram.jobs.recipe import recipe

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))

verb, first, second, out, *keep = sys.argv[1:]
settings = {"keep": float(keep[0]), "method": keep[1]} if keep and verb == "prune" else {}

def merge(first, second, out, **settings):
    folder = second.removesuffix(second.rpartition("/")[2])
    asked = recipe(first, [second, f"{folder}delta"], method=keep[1], densities=[float(keep[0])])
    jobs.merge(asked, out, **settings)

job = merge if verb == "merge" else getattr(jobs, verb)
job(f"tiny/{first}", f"tiny/{second}", f"tiny/{out}", threads=2, force=True, **settings)
peak, done = 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, anonymous())

before = anonymous()
watcher = threading.Thread(target=watch)
watcher.start()
job(first, second, out, threads=2, **settings)
done.set()
watcher.join()
print(json.dumps(peak - before))
"""


def write_pair(folder: Path, *, scale: int) -> None:
    """Base and tuned in bfloat16: a tensor of `scale` times 105 MB, and as much again in twenty small ones."""
    rng = np.random.default_rng(0)
    base = (rng.standard_normal((512, ROW), np.float32) * 0.02).astype(ml_dtypes.bfloat16)
    tuned = (base.astype(np.float32) + rng.standard_normal((512, ROW), np.float32) * 1e-3).astype(ml_dtypes.bfloat16)
    shapes = {"big.weight": (51200 * scale, ROW)} | {f"layer.{i}.weight": (2560, ROW) for i in range(20 * scale)}
    (shard,) = lay_out({name: Spec(dtype="BF16", shape=shape) for name, shape in shapes.items()}, shard_bytes=None)
    for side, tile in (("base", base), ("tuned", tuned)):
        (folder / side).mkdir(parents=True)
        with (folder / side / shard.name).open("wb") as file:
            file.write(shard.header)
            for _ in range((shard.nbytes - len(shard.header)) // tile.nbytes):
                file.write(tile.view(np.uint8).data)
        assert (folder / side / shard.name).stat().st_size == shard.nbytes


def write_tiny(folder: Path) -> None:
    spec = Spec(dtype="BF16", shape=(64, ROW))
    (shard,) = lay_out({"big.weight": spec}, shard_bytes=None)
    for seed, side in enumerate(("base", "tuned")):
        (folder / "tiny" / side).mkdir(parents=True)
        values = np.random.default_rng(seed).standard_normal(spec.shape, np.float32).astype(ml_dtypes.bfloat16)
        (folder / "tiny" / side / shard.name).write_bytes(shard.header + values.tobytes())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Path]]:
    made = {}
    for scale in (1, 2):
        made[scale] = tmp_path_factory.mktemp("memory")
        write_pair(made[scale], scale=scale)
        write_tiny(made[scale])
    yield made
    for folder in made.values():
        shutil.rmtree(folder)


def needed(folder: Path, *arguments: str) -> int:
    command = [sys.executable, "-c", WATCH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout))


def test_memory_is_bounded_whatever_the_size_of_the_model(folders: dict[int, Path]) -> None:
    """Twice the model may take a fifth more; 8 MB apart, which the allocator gives or takes by chance."""
    for arguments in (
        ("prune", "base", "tuned", "delta", "0.01", "random"),
        ("restore", "base", "delta", "back"),
        ("prune", "base", "tuned", "listed", "0.01", "magnitude"),
        ("prune", "base", "tuned", "rows", "0.01", "magnitude-rows"),
        ("prune", "base", "tuned", "columns", "0.01", "columns-magnitude"),
        ("merge", "base", "tuned", "elected", "0.2", "ties"),
        ("merge", "base", "tuned", "dropped", "0.2", "dare_ties"),
    ):
        small, large = (needed(folder, *arguments) for folder in folders.values())
        assert 0 < small < 120 * MEGABYTE, arguments
        assert large <= 1.2 * small + 8 * MEGABYTE, arguments
