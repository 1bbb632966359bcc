"""How golden deltas are made: once for what a format version can hold, by the first release that does; never again.

`python tests/golden/make.py v1` refuses to replace one that exists. `v1` is the format's forms, masks and codecs;
`v1-more` has columns, WANDA masks, low-rank and coded whole tensors, and divisors of rows in F16.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from deltagram.delta.scores import InputNorms
from deltagram.jobs import prune, rescale, restore
from deltagram.store import open_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from checkpoints import write_file

State = dict[str, NDArray[Any]]
PLAN = """
tensors:
  - {match: "*bernoulli*", method: bernoulli, keep: 0.2, values: 4bit}
  - {match: "*magnitude*", method: magnitude, keep: 0.05, values: 8bit}
  - {match: "*sign*", values: sign, keep: 0.1}
  - {match: "*codebook*", values: codebook3, keep: 0.1}
  - {match: "*exact*", form: exact}
"""


MORE = """
tensors:
  - {match: "columns.weight", method: columns, keep: 0.02, columns: 0.2}
  - {match: "drawn.weight", method: columns, keep: 0.2, columns: 0.5, values: 4bit}
  - {match: "largest.weight", method: columns-magnitude, keep: 0.05, columns: 0.2, values: f32}
  - {match: "weighed.weight", method: columns-wanda, keep: 0.05, columns: 0.3, values: 8bit}
  - {match: "wanda.weight", method: wanda, keep: 0.05}
  - {match: "rows.weight", method: wanda-rows, keep: 0.1, values: codebook4}
  - {match: "conv.weight", method: magnitude, keep: 0.4, values: 4bit}
  - {match: "classifier.weight", form: whole, values: 8bit}
  - {match: "classifier.bias", form: whole, values: f32}
  - {match: "score.weight", form: whole, values: codebook3}
  - {match: "norm.weight", form: whole, values: bf16}
"""


def pair() -> tuple[State, State]:
    """Every form, mask and kind of values, in all float types; larger than one block where blocks matter."""
    rng = np.random.default_rng(20)

    def normal(*shape: int) -> NDArray[np.float64]:
        return rng.standard_normal(shape) * 0.1

    base: dict[str, NDArray[Any]] = {
        "encoder.stratified.weight": normal(100, 90).astype(np.float32),
        "encoder.bernoulli.weight": normal(300, 230).astype(ml_dtypes.bfloat16),
        "encoder.magnitude.weight": normal(90, 110).astype(np.float16),
        "encoder.sign.weight": normal(60, 50).astype(np.float32),
        "encoder.codebook.weight": normal(60, 50).astype(np.float64),
        "encoder.exact.weight": normal(40, 40).astype(ml_dtypes.bfloat16),
        "encoder.cast.weight": normal(30, 30).astype(np.float32),
        "encoder.same.weight": normal(10, 10).astype(np.float32),
        "encoder.norm.weight": np.ones(10, np.float32),
        "encoder.embed_tokens.weight": normal(50, 20).astype(np.float32),
        "encoder.pooler.weight": normal(5, 5).astype(np.float32),
        "encoder.ids": np.arange(7, dtype=np.int64),
    }
    tuned = {f"model.{n}": (a + rng.standard_normal(a.shape) * 0.01).astype(a.dtype) for n, a in base.items()}
    tuned["model.encoder.cast.weight"] = tuned["model.encoder.cast.weight"].astype(ml_dtypes.bfloat16)
    tuned["model.encoder.same.weight"] = base["encoder.same.weight"]
    tuned["model.encoder.embed_tokens.weight"] = np.concatenate(
        [tuned["model.encoder.embed_tokens.weight"], normal(3, 20).astype(np.float32)]
    )
    tuned["classifier.weight"] = normal(2, 10).astype(np.float32)
    tuned["model.encoder.exact.weight"][0, :3] = [np.nan, np.inf, -0.0]
    del tuned["model.encoder.pooler.weight"]
    return base, tuned


def more() -> tuple[State, State, State]:
    """A base, a PEFT adapter of it - factors, and modules saved whole - and norms of inputs."""
    rng = np.random.default_rng(21)

    def normal(*shape: int) -> NDArray[np.float64]:
        return rng.standard_normal(shape) * 0.1

    base: State = {
        "linear.weight": normal(40, 30).astype(np.float32),
        "conv.weight": normal(12, 5, 3).astype(ml_dtypes.bfloat16),
        "table.weight": normal(25, 12).astype(np.float64),
        "columns.weight": normal(40, 50).astype(np.float32),
        "drawn.weight": normal(300, 500).astype(ml_dtypes.bfloat16),
        "largest.weight": normal(40, 50).astype(np.float16),
        "weighed.weight": normal(40, 50).astype(np.float32),
        "wanda.weight": normal(40, 50).astype(np.float32),
        "rows.weight": normal(40, 50).astype(ml_dtypes.bfloat16),
        "norm.weight": np.ones(40, np.float32),
    }
    names = ["columns", "drawn", "largest", "weighed", "wanda", "rows", "norm"]
    saved = {f"{n}.weight": base[f"{n}.weight"] for n in names}
    saved = {n: (a + rng.standard_normal(a.shape) * 0.01).astype(a.dtype) for n, a in saved.items()}
    saved["classifier.weight"] = normal(3, 40).astype(np.float32)
    saved["classifier.bias"] = normal(3).astype(np.float64)
    saved["score.weight"] = normal(9, 40).astype(np.float16)
    factors = {
        "linear.lora_A.weight": normal(4, 30), "linear.lora_B.weight": normal(40, 4),
        "conv.lora_A.weight": normal(4, 5, 3), "conv.lora_B.weight": normal(12, 4, 1),
        "table.lora_embedding_A": normal(4, 25), "table.lora_embedding_B": normal(12, 4),
    }  # fmt: skip
    adapter = {f"base_model.model.{name}": array.astype(np.float32) for name, array in factors.items()}
    adapter |= {f"base_model.model.{name}": array for name, array in saved.items()}
    norms = {f"{name}.weight": rng.random(50, np.float32) for name in ("weighed", "wanda", "rows")}
    return base, adapter, norms


def write_v1(folder: Path) -> None:
    """Base, fine-tuned model and plan of `v1`."""
    base, tuned = pair()
    write_file(folder / "base.safetensors", base)
    write_file(folder / "tuned.safetensors", tuned)
    (folder / "plan.yaml").write_text(PLAN)


def write_more(folder: Path) -> None:
    """Base, adapter, norms and plan of `v1-more`."""
    base, adapter, norms = more()
    write_file(folder / "base.safetensors", base)
    (folder / "adapter").mkdir()
    write_file(folder / "adapter" / "adapter_model.safetensors", adapter)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 3, "alpha_pattern": {"conv": -0.7}}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    write_file(folder / "norms.safetensors", norms)
    (folder / "plan.yaml").write_text(MORE)


def prune_v1(folder: Path, out: Path) -> None:
    """The delta of `v1`."""
    prune(folder / "base.safetensors", folder / "tuned.safetensors", out, keep=0.05, plan=folder / "plan.yaml")


def prune_more(folder: Path, out: Path) -> None:
    """The delta of `v1-more`, with divisors of rows."""
    norms = {name: InputNorms(values=values) for name, values in load_file(folder / "norms.safetensors").items()}
    prune(
        folder / "base.safetensors", folder / "adapter", out, adapter="factors", keep=0.3, plan=folder / "plan.yaml",
        calibration=norms,
    )  # fmt: skip
    rows: Mapping[str, NDArray[np.float64]] = {
        "columns.weight": np.linspace(0.5, 2, 40), "linear.weight:B": np.linspace(0.25, 4, 40)
    }  # fmt: skip
    rescale(out, divide_by=rows, row_dtype="F16")


WRITE = {"v1": write_v1, "v1-more": write_more}
PRUNE = {"v1": prune_v1, "v1-more": prune_more}


def main(version: str) -> None:
    """Write `tests/golden/VERSION`."""
    folder = Path(__file__).parent / version
    folder.mkdir()
    WRITE[version](folder)
    PRUNE[version](folder, folder / "delta")
    restore(folder / "base.safetensors", folder / "delta", folder / "restored.safetensors")
    opened = open_checkpoint(folder / "restored.safetensors")
    digests = {name: opened.digest(name) for name in sorted(opened.specs)}
    (folder / "restored.json").write_text(json.dumps(digests, indent=1) + "\n")
    (folder / "restored.safetensors").unlink()


if __name__ == "__main__":
    main(sys.argv[1])
