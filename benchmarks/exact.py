"""Lossless deltas (`prune --method exact`) of bfloat16 checkpoints: bytes, seconds, and a check of every bit.

`python benchmarks/exact.py [--folder DIR] [--runs N] [--zipnn PYTHON]`

On the pair of 271 million parameters, and on single tensors of 16.8 million whose fine-tuning moved entries by
2e-5, 1e-4, 5e-4 and 2e-3 (standard deviation; the weights' own is 0.02). Limit: the order-0 entropy of the two byte
planes of the distances. Peers: XOR, byte planes and zstd, in blocks as here, at level 3 (target: no larger), and
zipnn 0.5.4 in its delta mode, which is XOR and Huffman codes (target: no larger). zipnn needs an environment:
`python -m venv V; V/bin/pip install torch==2.13.0 numpy safetensors; V/bin/pip install --no-deps zipnn==0.5.4`.
"""

import json
import sys
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from deltagram import jobs
from deltagram.delta.difference import distance
from deltagram.store.checkpoint import SINGLE, Checkpoint, open_checkpoint
from measure import Row, median, options, rounds, table, workplace
from pair import BASE_STD, shapes, write_pair
from process import child
from xor_delta import Took, check_xor, write_xor

STDS = (2e-5, 1e-4, 5e-4, 2e-3)
SIZE = 4096
HOW = (
    "zipnn was not run. `python -m venv V; V/bin/pip install torch==2.13.0 numpy safetensors; "
    "V/bin/pip install --no-deps zipnn==0.5.4`, then `--zipnn V/bin/python`."
)


def write_tensor(folder: Path, std: float) -> None:
    """One square tensor, before and after (reused if it is there)."""
    if (folder / "tuned" / SINGLE).exists():
        return
    rng = np.random.default_rng(round(1 / std))
    base = (rng.standard_normal((SIZE, SIZE), np.float32) * np.float32(BASE_STD)).astype(ml_dtypes.bfloat16)
    moved = base.astype(np.float32) + rng.standard_normal((SIZE, SIZE), np.float32) * np.float32(std)
    for side, weights in (("base", base), ("tuned", moved.astype(ml_dtypes.bfloat16))):
        (folder / side).mkdir(parents=True, exist_ok=True)
        save_file({"weight": weights}, folder / side / SINGLE)


def ours(folder: Path) -> Took:
    """Prune and restore, both timed after start-up; every restored bit is compared."""
    base, tuned, delta, out = folder / "base", folder / "tuned", folder / "delta", folder / "restored"
    pruned = jobs.prune(base, tuned, delta, method="exact", force=True).numbers
    restored = jobs.restore(base, delta, out, force=True).numbers
    found, wanted = open_checkpoint(out), open_checkpoint(tuned)
    for name, view in wanted.views.items():
        if found.specs[name] != wanted.specs[name] or found.views[name] != view:
            sys.exit(f"{name} is not restored bit by bit")
    took = {"bytes": pruned["delta_bytes"], "pack": pruned["seconds"] - pruned["start_up_seconds"]}
    return took | {"unpack": restored["seconds"] - restored["start_up_seconds"]}


def zipnn(python: Path, folder: Path) -> Took:
    """Its delta of the two files; the start of its process is not timed."""
    files = (folder / "base" / SINGLE, folder / "tuned" / SINGLE, folder / "zipnn")
    took: dict[str, float] = json.loads(child(python, Path(__file__).with_name("zipnn_delta.py"), *files).output)
    if not took["lossless"]:
        sys.exit("zipnn did not give the file back")
    return took


def bound(base: Checkpoint, tuned: Checkpoint) -> tuple[float, float]:
    """Bytes by the order-0 entropy of a tensor's distances: of their two byte planes, and of whole words."""
    planes = words = 0.0
    for name, spec in tuned.specs.items():
        counts = np.zeros(1 << 16, np.int64)
        for start in range(0, spec.size, 1 << 20):
            stop = min(start + (1 << 20), spec.size)
            moved = distance(base.bits(name, start, stop), tuned.bits(name, start, stop), floating=True)
            counts += np.bincount(moved, minlength=1 << 16)
        grid = counts.reshape(256, 256)
        planes += entropy(grid.sum(axis=0)) + entropy(grid.sum(axis=1))
        words += entropy(counts)
    return planes, words


def entropy(counts: NDArray[np.int64]) -> float:
    """Bytes that symbols with these counts take together."""
    used = counts[counts > 0].astype(np.float64)
    return float((used * np.log2(used.sum() / used)).sum()) / 8


def rows(folder: Path, what: str, python: Path | None, *, runs: int) -> list[Row]:
    """Ours, the peers and the bound on one pair."""
    base, tuned = open_checkpoint(folder / "base"), open_checkpoint(folder / "tuned")
    sides = {"ours": partial(ours, folder), "xor": partial(write_xor, base, tuned, folder / "xor")}
    if python is not None:
        sides["zipnn"] = partial(zipnn, python, folder)
    found = rounds(sides, runs=runs)
    check_xor(base, tuned)
    middle = {
        side: {key: median([run[key] for run in taken]) for key in taken[0]} for side, taken in found.items()
    }  # fmt: skip
    mine, planes_zstd, huffman = middle["ours"], middle["xor"], middle.get("zipnn")
    planes, words = bound(base, tuned)
    dense = sum(spec.nbytes for spec in tuned.specs.values())
    size = partial(Row, ours=mine["bytes"], unit="B")
    lines = [
        size(what=f"{what}: bytes", beside="bfloat16 checkpoint", theirs=dense),
        size(what=f"{what}: bytes", beside="entropy of the byte planes", theirs=planes),
        size(what=f"{what}: bytes", beside="entropy of whole distances", theirs=words),
        size(what=f"{what}: bytes", beside="XOR, planes, zstd", theirs=planes_zstd["bytes"], at_most=1),
        Row(what=f"{what}: to pack", ours=mine["pack"], beside="XOR, planes, zstd", theirs=planes_zstd["pack"]),
    ]
    if huffman:
        lines += [
            size(what=f"{what}: bytes", beside="zipnn 0.5.4, delta", theirs=huffman["bytes"], at_most=1),
            Row(what=f"{what}: to pack", ours=mine["pack"], beside="zipnn 0.5.4, delta", theirs=huffman["pack"]),
            Row(what=f"{what}: to restore", ours=mine["unpack"], beside="zipnn 0.5.4", theirs=huffman["unpack"]),
        ]
    return lines


def main() -> None:
    parser = options(__doc__, runs=3)
    parser.add_argument("--zipnn", type=Path, metavar="PYTHON", help="python of an environment that has zipnn")
    given = parser.parse_args()
    with workplace(given.folder) as folder:
        write_pair(folder / "pair", shapes(1))
        found = rows(folder / "pair", "271 M, 1e-3", given.zipnn, runs=given.runs)
        for std in STDS:
            write_tensor(folder / f"moved-{std}", std)
            found += rows(folder / f"moved-{std}", f"16.8 M, {std:.0e}", given.zipnn, runs=given.runs)
    table(
        "Lossless deltas, bfloat16, weights of standard deviation 0.02", found,
        "Each row says how many parameters, and the standard deviation of what fine-tuning added. "
        "Every restored bit was compared, of the peers too.",
        "" if given.zipnn else HOW,
    )  # fmt: skip


if __name__ == "__main__":
    main()
