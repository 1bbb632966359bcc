"""Time of swapping one variant for another in place, on a base of 271 million bfloat16 parameters in memory.

`python benchmarks/swap.py [--folder DIR] [--runs N]`

Two variants at keep 0.1 % and 1 %, with masks of different seeds and of the same seed. Limits: copying the dense
weights into memory that is there, by as many threads (target: a swap takes at most 1/4 of it at 0.1 %, at most
all of it at 1 %); and loading the full checkpoint from a warm page cache (`safetensors.numpy.load_file`). Every
variant is compared bit by bit with what `restore` writes, and the base with itself afterwards.
"""

import sys
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from deltagram import jobs
from deltagram.delta.patch import Live, Patch
from deltagram.store.checkpoint import open_checkpoint
from deltagram.store.deltafile import open_delta
from deltagram.threads import default_threads, ordered
from measure import Row, median, options, rounds, seconds, shown, table, workplace
from pair import shapes, write_pair

State = dict[str, NDArray[np.uint16]]
KEEPS = {0.001: 0.25, 0.01: 1.0}  # and how long a swap may take, against a dense copy
VARIANTS: dict[str, tuple[int, float | str]] = {"a": (0, "dare"), "b": (1, "dare"), "c": (0, 0.5)}  # seed, divide_by


def in_memory(checkpoint: Path) -> State:
    """Bit patterns of a checkpoint, each tensor in memory of its own."""
    opened = open_checkpoint(checkpoint)
    return {name: opened.bits(name, 0, spec.size).copy() for name, spec in opened.specs.items()}


def copy(source: State, target: State) -> None:
    """Dense weights into preallocated memory, by the threads a swap uses."""
    for _ in ordered(lambda name: np.copyto(target[name], source[name]), source, threads=default_threads()):
        pass


def check(found: State, expected: Path | State, what: str) -> None:
    """Exit unless all bits are as expected."""
    wanted = in_memory(expected) if isinstance(expected, Path) else expected
    for name, bits in wanted.items():
        if not np.array_equal(found[name], bits):
            sys.exit(f"{what}: {name} differs")


def rows(folder: Path, keep: float, weights: State, *, runs: int) -> list[Row]:
    """Prepare the variants at one rate, check them, and swap them."""
    pair, base = folder / "pair", in_memory(folder / "pair" / "base")
    room = {name: np.zeros_like(bits) for name, bits in base.items()}
    shaped = {name: bits.view(ml_dtypes.bfloat16).reshape(shapes(1)[name]) for name, bits in base.items()}
    original = {name: bits.copy() for name, bits in base.items()}
    live = Live(shaped)
    patches: dict[str, Patch] = {}
    preparing: list[float] = []
    for name, (seed, divide_by) in VARIANTS.items():
        delta, out = folder / f"delta-{keep}-{name}", folder / "restored"
        jobs.prune(pair / "base", pair / "tuned", delta, keep=keep, seed=seed, divide_by=divide_by, force=True)
        preparing.append(seconds(lambda n=name, d=delta: patches.update({n: live.prepare(open_delta(d))})))  # type: ignore[misc]
        jobs.restore(pair / "base", delta, out, force=True)
        live.swap(patches[name])
        check(base, out, f"variant {name}")
    live.swap(None)
    check(base, original, "the base afterwards")
    live.swap(patches["a"])
    copy(weights, room)  # its pages exist from here on
    found = rounds(
        {
            "other": lambda: seconds(partial(live.swap, patches["b"])),
            "copy": lambda: seconds(partial(copy, weights, room)),
            "back": lambda: seconds(partial(live.swap, patches["a"])),
            "same": lambda: seconds(partial(live.swap, patches["c"])),
            "load": lambda: seconds(partial(load_file, pair / "tuned" / "model.safetensors")),
            "again": lambda: seconds(partial(live.swap, patches["a"])),
            "off": lambda: seconds(partial(live.swap, None)),
            "on": lambda: seconds(partial(live.swap, patches["a"])),
        },
        runs=runs,
    )
    dense, load = median(found["copy"]), median(found["load"])
    other = median(found["other"] + found["back"])
    same = median(found["same"] + found["again"])
    at = f"keep {keep:.1%}"
    return [
        Row(what=f"{at}: swap, other seed", ours=other, beside="dense copy", theirs=dense, at_most=KEEPS[keep]),
        Row(what=f"{at}: swap, same seed", ours=same, beside="dense copy", theirs=dense, at_most=KEEPS[keep]),
        Row(what=f"{at}: revert to the base", ours=median(found["off"]), beside="dense copy", theirs=dense),
        Row(what=f"{at}: swap, other seed", ours=other, beside="loading the checkpoint", theirs=load),
        Row(what=f"{at}: preparing a variant", ours=median(preparing), beside="loading the checkpoint", theirs=load),
        Row(
            what=f"{at}: memory a variant", ours=patches["a"].nbytes, unit="B", beside="dense weights",
            theirs=sum(bits.nbytes for bits in base.values()),
        ),
    ]  # fmt: skip


def main() -> None:
    given = options(__doc__, runs=9).parse_args()
    with workplace(given.folder) as folder:
        write_pair(folder / "pair", shapes(1))
        weights = in_memory(folder / "pair" / "tuned")
        found = [row for keep in KEEPS for row in rows(folder, keep, weights, runs=given.runs)]
    size = shown(sum(bits.nbytes for bits in weights.values()), "B")
    table(
        f"Swap in place: 271 M parameters, bfloat16 ({size}), {default_threads()} threads", found,
        "Each variant and, after it, the base were compared bit by bit with the restored and the original checkpoint.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
