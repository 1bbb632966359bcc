"""Time and memory of prune and restore, 271 million bfloat16 parameters, two checkpoints of 542 MB, keep 1 %.

`python benchmarks/prune_restore.py [--folder DIR] [--runs N] [--mergekit PYTHON]`

Limits: plain reading of both files for prune (target: at most 2.0 times), and a buffered, fsynced copy of the
base for restore, which is fsynced too (at most 1.5 times); both without start-up, which has its own row.
Peer: mergekit 0.1.5, `dare_linear` with density 0.01, which writes the same kind of checkpoint (at least 5
times slower), as whole processes. It needs its own environment, torch first so that no GPU build comes:
`python -m venv V; V/bin/pip install torch==2.13.0; V/bin/pip install mergekit==0.1.5`, then `--mergekit V/bin/python`.
"""

import json
import os
import shutil
from functools import partial
from pathlib import Path

from measure import BUFFER, Child, Row, child, deltagram, median, options, read, rounds, seconds, table, workplace
from pair import HIDDEN, INNER, LAYERS, VOCABULARY, shapes, write_pair

KEEP = 0.01
FILE = "model.safetensors"
HOW = "`python -m venv V; V/bin/pip install torch==2.13.0; V/bin/pip install mergekit==0.1.5`, `--mergekit V/bin/python`"
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HIDDEN // 64,
    "num_key_value_heads": HIDDEN // 64,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
RECIPE = """\
merge_method: dare_linear
base_model: {base}
dtype: bfloat16
models:
  - model: {tuned}
    parameters: {{density: {keep}, weight: 1.0}}
"""


def copy(source: Path, target: Path) -> None:
    """A buffered copy that is on the disk when it returns."""
    buffer = memoryview(bytearray(BUFFER))
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        while count := old.readinto(buffer):
            new.write(buffer[:count])
        os.fsync(new.fileno())


def cleared(path: Path) -> Path:
    """`path` with nothing there, and no write of anyone waiting for the disk."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    os.sync()
    return path


def prepare_mergekit(pair: Path, folder: Path) -> Path:
    """The same weights under a full Llama config, which mergekit asks for, and the recipe."""
    for side in ("base", "tuned"):
        (folder / side).mkdir(parents=True, exist_ok=True)
        (folder / side / FILE).unlink(missing_ok=True)
        (folder / side / FILE).symlink_to(pair / side / FILE)
        (folder / side / "config.json").write_text(json.dumps(CONFIG))
    (folder / "recipe.yml").write_text(RECIPE.format(base=folder / "base", tuned=folder / "tuned", keep=KEEP))
    return folder / "recipe.yml"


def mergekit(python: Path, recipe: Path, out: Path) -> Child:
    """The merge, on all processors, without what only a real model has (tokenizer)."""
    words = (recipe, cleared(out), "--random-seed", "0", "--no-copy-tokenizer", "--quiet")
    return child(python.parent / "mergekit-yaml", *words)


def inner(runs: list[Child]) -> float:
    """Median seconds of a job after its start-up."""
    return median([run.numbers["seconds"] - run.numbers["start_up_seconds"] for run in runs])


def started(runs: list[Child]) -> float:
    """Median seconds of a process before and around its work: interpreter, imports, opening, planning, kernels."""
    return median([run.seconds for run in runs]) - inner(runs)


def main() -> None:
    parser = options(__doc__, runs=7)
    parser.add_argument("--mergekit", type=Path, metavar="PYTHON", help="python of an environment that has mergekit")
    parser.add_argument("--mergekit-runs", type=int, default=3, help="rounds that include mergekit (3)")
    given = parser.parse_args()
    with workplace(given.folder) as folder:
        pair, delta, out = folder / "pair", folder / "delta", folder / "restored"
        write_pair(pair, shapes(1))
        base, tuned = pair / "base", pair / "tuned"
        deltagram("prune", base, tuned, cleared(delta), "--keep", KEEP)  # compiles, and warms the page cache
        files = (base / FILE, tuned / FILE)
        plain = rounds(
            {"read": lambda: seconds(partial(read, *files)),
             "copy": lambda: seconds(partial(copy, files[0], cleared(folder / "copy")))}, runs=0,
        )  # fmt: skip
        jobs: dict[str, list[Child]] = {"prune": [], "restore": [], "mergekit": []}
        for turn in range(given.runs):
            plain["read"].append(seconds(partial(read, *files)))
            jobs["prune"].append(deltagram("prune", base, tuned, cleared(delta), "--keep", KEEP))
            target = cleared(folder / "copy")
            plain["copy"].append(seconds(partial(copy, files[0], target)))
            jobs["restore"].append(deltagram("restore", base, delta, cleared(out)))
            if given.mergekit and turn < given.mergekit_runs:
                recipe = prepare_mergekit(pair, folder / "mergekit")
                jobs["mergekit"].append(mergekit(given.mergekit, recipe, folder / "merged"))
