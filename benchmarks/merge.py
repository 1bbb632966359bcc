"""Time and memory of merging two fine-tuned models, 271 million bfloat16 parameters each, against mergekit 0.1.5.

`python benchmarks/merge.py [--folder DIR] [--runs N] [--mergekit PYTHON]`

The same YAML on both sides, as whole processes in turn: `linear`, `ties` with density 0.2, `dare_ties` with
density 0.1; and, of ours alone, the same `ties` from two deltas that keep 1 %. Target: at least 2 times faster.
Ours computes in float32 and checks for NaN, mergekit in bfloat16 as its defaults are. mergekit is looked for in
this environment; `--mergekit` names the python of another.
"""

import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

import mergekit_dare
from deltagram.store.checkpoint import SINGLE, open_checkpoint
from deltagram.store.layout import lay_out
from measure import Row, median, options, table, workplace
from pair import BLOCK, DELTA_STD, shapes, write_pair
from process import Child, deltagram
from prune_restore import cleared, read

KEEP = 0.01
RECIPES = {
    "linear": "weight: 1.0",
    "ties": "weight: 0.6, density: 0.2",
    "dare_ties": "weight: 0.6, density: 0.1",
}


def write_variant(base: Path, folder: Path, *, seed: int) -> None:
    """Another fine-tuned model of `base` (reused if it is there)."""
    if (folder / SINGLE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    opened = open_checkpoint(base)
    (shard,) = lay_out(opened.specs, shard_bytes=None)
    rng = np.random.default_rng(seed)
    with (folder / "partial").open("wb") as file:
        file.write(shard.header)
        for name in shard.offsets:
            size = opened.specs[name].size
            for start in range(0, size, BLOCK):
                bits = opened.bits(name, start, min(start + BLOCK, size))
                moved = bits.view(ml_dtypes.bfloat16).astype(np.float32)
                moved += rng.standard_normal(moved.size, np.float32) * np.float32(DELTA_STD)
                file.write(moved.astype(ml_dtypes.bfloat16).view(np.uint8).data)
    (folder / "partial").rename(folder / SINGLE)


def prepare(folder: Path) -> dict[str, Path]:
    """Base, two fine-tuned models and their deltas; a recipe a method, and `deltas`: `ties` of the deltas."""
    write_pair(folder / "pair", shapes(1))
    mergekit_dare.prepare(folder / "pair", folder / "models", keep=KEEP)
    models = folder / "models"
    write_variant(models / "base", models / "other", seed=99)
    (models / "other" / "config.json").write_text((models / "base" / "config.json").read_text())
    for seed, side in enumerate(("tuned", "other")):
        words = (models / "base", models / side, cleared(folder / f"{side}-delta"), "--keep", KEEP, "--seed", seed)
        deltagram("prune", *words)
    found = {}
    for name, numbers in [*RECIPES.items(), ("deltas", RECIPES["ties"])]:
        sides = (models / "tuned", models / "other")
        if name == "deltas":
            sides = (folder / "tuned-delta", folder / "other-delta")
        lines = [f"- {{model: {side}, parameters: {{{numbers}}}}}" for side in sides]
        head = [f"merge_method: {'ties' if name == 'deltas' else name}", "models:"]
        base = [] if name == "linear" else [f"base_model: {models / 'base'}"]
        found[name] = folder / f"{name}.yml"
        found[name].write_text("\n".join([*base, *head, *lines]) + "\n")
    return found


def rows(name: str, ours: list[Child], theirs: list[Child]) -> list[Row]:
    """Seconds and memory of one recipe."""
    what = "ties, two deltas that keep 1 %" if name == "deltas" else f"{name}, two checkpoints"
    taken = Row(what=f"{what}: whole process", ours=median([run.seconds for run in ours]))
    held = Row(what=f"{what}: peak anonymous memory", ours=max(run.anonymous for run in ours), unit="B")
    if theirs:
        taken = replace(taken, beside="mergekit", theirs=median([run.seconds for run in theirs]), at_least=2)
        held = replace(held, beside="mergekit", theirs=max(run.anonymous for run in theirs), at_least=2)
    return [taken, held]


def main() -> None:
    parser = options(__doc__, runs=3)
    parser.add_argument("--mergekit", type=Path, metavar="PYTHON", default=Path(sys.executable))
    given = parser.parse_args()
    there = (given.mergekit.parent / "mergekit-yaml").exists()
    found: list[Row] = []
    with workplace(given.folder) as folder:
        recipes = prepare(folder)
        read(*(folder / "models" / side / SINGLE for side in ("base", "tuned", "other")))
        for name, recipe in recipes.items():
            ours: list[Child] = []
            theirs: list[Child] = []
            for _ in range(given.runs):
                ours.append(deltagram("merge", "--config", recipe, cleared(folder / "merged")))
                if there and name != "deltas":
                    theirs.append(mergekit_dare.merge(given.mergekit, recipe, cleared(folder / "merged")))
            cleared(folder / "merged")
            found += rows(name, ours, theirs)
    table("Merging: two models of 271 M parameters, bfloat16", found, "" if there else mergekit_dare.HOW)


if __name__ == "__main__":
    main()
