"""The peer of prune and restore: mergekit 0.1.5, `dare_linear`, as a process in an environment of its own."""

import json
from pathlib import Path

from deltagram.store.checkpoint import SINGLE
from pair import HIDDEN, INNER, LAYERS, VOCABULARY
from process import Child, child

HOW = (
    "mergekit was not run. `python -m venv V; V/bin/pip install torch==2.13.0; V/bin/pip install mergekit==0.1.5` "
    "(in this order), then `--mergekit V/bin/python`."
)
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


def prepare(pair: Path, folder: Path, *, keep: float) -> Path:
    """The same weights under a full Llama config, which mergekit asks for, and the recipe."""
    for side in ("base", "tuned"):
        (folder / side).mkdir(parents=True, exist_ok=True)
        (folder / side / SINGLE).unlink(missing_ok=True)
        (folder / side / SINGLE).symlink_to(pair / side / SINGLE)
        (folder / side / "config.json").write_text(json.dumps(CONFIG))
    (folder / "recipe.yml").write_text(RECIPE.format(base=folder / "base", tuned=folder / "tuned", keep=keep))
    return folder / "recipe.yml"


def merge(python: Path, recipe: Path, out: Path) -> Child:
    """The merge, with its defaults, without the tokenizer that a real model would have."""
    words = (recipe, out, "--random-seed", "0", "--no-copy-tokenizer", "--quiet")
    return child(python.parent / "mergekit-yaml", *words)
