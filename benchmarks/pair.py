"""A synthetic Llama-shaped base and fine-tuned pair in bfloat16, for measuring time, memory and size.

`python benchmarks/pair.py DIR [--scale 1|2|4] [--one-big]` writes DIR/base and DIR/tuned. At scale 1 the model
has 271 million parameters (542 MB a checkpoint); --one-big writes a single 1 GB tensor instead.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from deltagram.arrays import Spec
from deltagram.store.layout import lay_out, write_index

HIDDEN, INNER, LAYERS, VOCABULARY = 1024, 2816, 16, 32000
BLOCK = 1 << 22
BASE_STD, DELTA_STD = 0.02, 1e-3


def shapes(scale: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama checkpoint whose depth is `scale` times 16, its vocabulary likewise."""
    rows = VOCABULARY * scale
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (rows, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (rows, HIDDEN),
    }
    for layer in range(LAYERS * scale):
        prefix = f"model.layers.{layer}."
        for name in "qkvo":
            found[f"{prefix}self_attn.{name}_proj.weight"] = (HIDDEN, HIDDEN)
        found[f"{prefix}mlp.gate_proj.weight"] = (INNER, HIDDEN)
        found[f"{prefix}mlp.up_proj.weight"] = (INNER, HIDDEN)
        found[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, INNER)
        found[f"{prefix}input_layernorm.weight"] = (HIDDEN,)
        found[f"{prefix}post_attention_layernorm.weight"] = (HIDDEN,)
    return found


def blocks(seed: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Base and tuned bit patterns of a tensor, a few million entries at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        base = (rng.standard_normal(count, np.float32) * BASE_STD).astype(ml_dtypes.bfloat16)
        delta = rng.standard_normal(count, np.float32) * DELTA_STD
        yield base.view(np.uint16), (base.astype(np.float32) + delta).astype(ml_dtypes.bfloat16).view(np.uint16)


def write_pair(folder: Path, named: dict[str, tuple[int, ...]]) -> None:
    """Write both checkpoints (reused if they are there)."""
    if (folder / "done").exists():
        return
    specs = {name: Spec(dtype="BF16", shape=shape) for name, shape in named.items()}
    (shard,) = lay_out(specs, shard_bytes=None)
    for side in ("base", "tuned"):
        (folder / side).mkdir(parents=True, exist_ok=True)
        (folder / side / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
        write_index(folder / side, [shard])
    with (folder / "base" / shard.name).open("wb") as base, (folder / "tuned" / shard.name).open("wb") as tuned:
        base.write(shard.header)
        tuned.write(shard.header)
        for seed, name in enumerate(shard.offsets):
            for first, second in blocks(seed, specs[name].size):
                base.write(first.data)
                tuned.write(second.data)
        for file in (base, tuned):
            file.flush()
            os.fsync(file.fileno())
    (folder / "done").touch()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--one-big", action="store_true")
    options = parser.parse_args()
    big: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (512 * 1024, 1024)}
    write_pair(options.folder, big if options.one_big else shapes(options.scale))
