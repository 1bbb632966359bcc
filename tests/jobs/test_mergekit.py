"""mergekit 0.1.5 as a live oracle: the same YAML gives the same tensors; its DARE agrees where it should."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from checkpoints import write_checkpoint
from deltagram import seeds
from deltagram.delta.masks import Bernoulli
from deltagram.jobs import merge
from deltagram.jobs.mergekit_yaml import read_recipe
from deltagram.store.checkpoint import open_checkpoint

LAYERS, WIDTH, INNER, VOCABULARY = 3, 16, 24, 40
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": VOCABULARY,
    "tie_word_embeddings": False, "dtype": "float32",
}  # fmt: skip
# Runs every recipe in a folder; then draws the sizes of mergekit's own random sparsification of given values.
ORACLE = """
import sys, json
from pathlib import Path
import torch, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.sparsify import RescaleNorm, SparsificationMethod, sparsify

folder = Path(sys.argv[1])
for path in sorted(folder.glob("*.yml")):
    config = MergeConfiguration.model_validate(yaml.safe_load(path.read_text()))
    options = MergeOptions(copy_tokenizer=False, quiet=True, random_seed=0, write_model_card=False)
    run_merge(config, str(folder / f"{path.stem}-theirs"), options)
values = torch.linspace(-1, 2, 4000)
means, squares = [], []
torch.manual_seed(1)
for _ in range(200):
    kept = sparsify(values, 0.1, SparsificationMethod.random, rescale_norm=RescaleNorm.l1)
    means.append(float(kept.double().mean()))
    squares.append(float((kept.double() ** 2).mean()))
(folder / "dare.json").write_text(json.dumps({"means": means, "squares": squares}))
"""
TASK, TIES = "merge_method: task_arithmetic\nbase_model: BASE\n", "merge_method: ties\nbase_model: BASE\n"
PLAIN = "models: [{model: A, parameters: {weight: 0.7}}, {model: B, parameters: {weight: 0.4}}]\n"
RECIPES = {
    "task": TASK + PLAIN,
    "task-lambda": TASK + "parameters: {lambda: 0.5, normalize: true}\n" + PLAIN,
    "ties": TIES + PLAIN.replace("0.7", "0.7, density: 0.3").replace("0.4", "0.4, density: 0.6"),
    "ties-three": TIES + "parameters: {weight: 1, density: 0.5, int8_mask: true}\n"
    "models: [{model: A}, {model: B}, {model: C}]\n",
    "ties-plain": TIES + "parameters: {normalize: false, rescale: true, density: 0.2}\n" + PLAIN,
    "ties-signs": TIES + "models:\n- {model: A, parameters: {weight: 1.5, density: 0.4}}\n"
    "- {model: B, parameters: {weight: -0.5}}\n",
    "linear": "merge_method: linear\n" + PLAIN,
    "linear-base": "merge_method: linear\nparameters: {normalize: false, weight: 0.25}\n"
    "models: [{model: A, parameters: {weight: 0.5}}, {model: BASE}, {model: B}]\n",
    "dare": "merge_method: dare_linear\nbase_model: BASE\nparameters: {density: 1.0}\n" + PLAIN,
    "dare-ties": "merge_method: dare_ties\nbase_model: BASE\nparameters: {normalize: true}\n" + PLAIN,
    "gradients": TASK + "models:\n- {model: BASE}\n- {model: A, parameters: {weight: [0, 0.5, 1e-1, 1]}}\n"
    "- model: B\n  parameters:\n    weight:\n    - {filter: mlp, value: [1, 0]}\n"
    "    - {filter: self_attn, value: 0.3}\n    - {value: 0.9}\n",
    "filters": TIES + "parameters: {density: [{filter: mlp, value: 0.2}, {value: 0.5}], weight: 0.5}\nmodels:\n"
    "- {model: A, parameters: {weight: [{filter: norm, value: 0}]}}\n- {model: B, parameters: {density: 0.7}}\n",
    "half": TASK + "out_dtype: bfloat16\n" + PLAIN,
}  # fmt: skip
Tensors = Mapping[str, np.ndarray[Any, Any]]


def shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (VOCABULARY, WIDTH),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        found |= {f"{prefix}self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        found |= {f"{prefix}mlp.{name}_proj.weight": (INNER, WIDTH) for name in ("gate", "up")}
        found |= {f"{prefix}mlp.down_proj.weight": (WIDTH, INNER)}
        found |= {f"{prefix}{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}
    return found


def tensors(path: Path) -> Tensors:
    opened = open_checkpoint(path)
    kinds = {"F32": np.float32, "BF16": ml_dtypes.bfloat16}
    return {name: opened.raw(name).view(kinds[spec.dtype]).reshape(spec.shape) for name, spec in opened.specs.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three fine-tuned models of a tiny base, the recipes, and what mergekit makes of them."""
    made = tmp_path_factory.mktemp("mergekit")
    rng = np.random.default_rng(0)
    base = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes().items()}
    states = {"base": base} | {
        side: {name: array + 0.1 * rng.standard_normal(array.shape, np.float32) for name, array in base.items()}
        for side in ("a", "b", "c")
    }
    for side, state in states.items():
        (write_checkpoint(made / side, state) / "config.json").write_text(json.dumps(CONFIG))
    for name, text in RECIPES.items():
        placed = re.sub(r"model: (BASE|A|B|C)\b", lambda found: f"model: {made / found[1].lower()}", text)
        (made / f"{name}.yml").write_text(placed)
    done = subprocess.run([sys.executable, "-c", ORACLE, str(made)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_file_gives_the_same_tensors(name: str, folder: Path) -> None:
    """Sums of at most four float32 products may be ordered or fused differently: a few units of the largest term."""
    merge(read_recipe(folder / f"{name}.yml"), folder / f"{name}-ours")
    ours, theirs = tensors(folder / f"{name}-ours"), tensors(folder / f"{name}-theirs")
    assert set(ours) == set(theirs) == set(shapes())
    for tensor, expected in theirs.items():
        found = ours[tensor]
        assert found.dtype == expected.dtype
        ulp = float(ml_dtypes.finfo(found.dtype).eps)
        scale = max(1.0, float(np.abs(expected.astype(np.float64)).max()))
        apart = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
        assert apart <= (8 if found.dtype == np.float32 else 1) * ulp * scale, tensor


def test_the_oracle_tells_methods_apart(folder: Path) -> None:
    """The tolerance above is far below what separates the recipes."""
    found = [tensors(folder / f"{name}-theirs")["lm_head.weight"].astype(np.float64) for name in RECIPES]
    names = list(RECIPES)
    for number, first in enumerate(found):
        for other, second in enumerate(found[:number]):
            if {names[number], names[other]} in ({"task", "dare"}, {"task", "half"}, {"dare", "half"}):
                continue  # the same merge, by design
            assert np.abs(first - second).max() > 1e-3, (names[number], names[other])


def test_dare_agrees_with_mergekits_in_mean_and_variance(folder: Path) -> None:
    """Over 200 masks of either: the kept, rescaled values have one mean and one mean square, within 5 sigma.

    mergekit's factor matches the L1 norm, which biases neither by more than that on 4,000 values.
    """
    values = np.linspace(-1, 2, 4000)
    means, squares = [], []
    for seed in range(200):
        mask = Bernoulli.draw(size=4000, key=seeds.key(seed, "w"), threshold=round(0.1 * 2**32))
        kept = np.zeros(4000)
        at = mask.positions(0, mask.keep).astype(np.int64)
        kept[at] = values[at] / 0.1
        means.append(kept.mean())
        squares.append((kept**2).mean())
    theirs = json.loads((folder / "dare.json").read_text())
    for mine, other in ((means, theirs["means"]), (squares, theirs["squares"])):
        sigma = np.sqrt(np.var(mine, ddof=1) / 200 + np.var(other, ddof=1) / 200)
        assert abs(np.mean(mine) - np.mean(other)) < 5 * sigma
