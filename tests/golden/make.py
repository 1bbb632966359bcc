"""How a golden delta is made: once for a format version, by the first release that writes it; never again.

`python tests/golden/make.py v1` refuses to replace one that exists.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from deltagram.jobs import prune, restore
from deltagram.store import open_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from checkpoints import write_file

PLAN = """
tensors:
  - {match: "*bernoulli*", method: bernoulli, keep: 0.2, values: 4bit}
  - {match: "*magnitude*", method: magnitude, keep: 0.05, values: 8bit}
  - {match: "*sign*", values: sign, keep: 0.1}
  - {match: "*codebook*", values: codebook3, keep: 0.1}
  - {match: "*exact*", form: exact}
"""


def pair() -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
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


def main(version: str) -> None:
    """Write `tests/golden/VERSION`."""
    folder = Path(__file__).parent / version
    folder.mkdir()
    base, tuned = pair()
    write_file(folder / "base.safetensors", base)
    write_file(folder / "tuned.safetensors", tuned)
    (folder / "plan.yaml").write_text(PLAN)
    prune(
        folder / "base.safetensors",
        folder / "tuned.safetensors",
        folder / "delta",
        keep=0.05,
        plan=folder / "plan.yaml",
    )
    restore(folder / "base.safetensors", folder / "delta", folder / "restored.safetensors")
    opened = open_checkpoint(folder / "restored.safetensors")
    digests = {name: opened.digest(name) for name in sorted(opened.specs)}
    (folder / "restored.json").write_text(json.dumps(digests, indent=1) + "\n")
    (folder / "restored.safetensors").unlink()


if __name__ == "__main__":
    main(sys.argv[1])
