"""Writing an adapter directory that PEFT loads: its tensors and its configuration."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import Spec
from deltagram.delta.lowrank import Factors
from deltagram.store.adapter_config import CONFIG, WEIGHTS
from deltagram.store.adapter_names import PREFIX
from deltagram.store.header import framed, header_text


@dataclass(frozen=True, kw_only=True)
class Array:
    """A tensor to be written."""

    spec: Spec
    data: bytes | memoryview

    @classmethod
    def of(cls, array: NDArray[Any], dtype: str) -> "Array":
        """An array, little-endian."""
        plain = np.ascontiguousarray(array)
        return cls(
            spec=Spec(dtype=dtype, shape=plain.shape), data=plain.astype(plain.dtype.newbyteorder("<")).tobytes()
        )


def write_adapter(folder: Path, arrays: Mapping[str, Array], config: Mapping[str, Any]) -> int:
    """The two files of an adapter; `arrays` by their names in the model. Returns the bytes of both."""
    named = {PREFIX + name: array for name, array in sorted(arrays.items())}
    text = header_text({name: array.spec for name, array in named.items()}, {"format": "pt"})
    with (folder / WEIGHTS).open("wb") as file:
        file.write(framed(text))
        for array in named.values():
            file.write(array.data)
    (folder / CONFIG).write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n", "utf-8")
    return (folder / WEIGHTS).stat().st_size + (folder / CONFIG).stat().st_size


def lora_arrays(module: str, kind: str, factors: Factors, shape: tuple[int, ...]) -> dict[str, Array]:
    """The factors of a weight of `shape` under the names, and in the orientation, that PEFT has for its layer."""
    swapped = kind in ("transposed", "embedding")
    a, b = (factors.a, factors.b) if factors.transposed == swapped else (factors.b.T, factors.a.T)
    if kind == "embedding":
        return {f"{module}.lora_embedding_A": Array.of(a, "F32"), f"{module}.lora_embedding_B": Array.of(b, "F32")}
    if kind == "convolution":
        a, b = a.reshape(len(a), *shape[1:]), b.reshape(*b.shape, *(1 for _ in shape[2:]))
    return {f"{module}.lora_A.weight": Array.of(a, "F32"), f"{module}.lora_B.weight": Array.of(b, "F32")}


def lora_config(ranks: Mapping[str, int], alphas: Mapping[str, float]) -> dict[str, Any]:
    """`r` and `lora_alpha` of most modules, and patterns for the others; `ranks` is not empty."""
    rank, alpha = (max(sorted(set(found.values())), key=list(found.values()).count) for found in (ranks, alphas))
    return {
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "init_lora_weights": True,
        "use_rslora": False, "use_dora": False,
        "rank_pattern": {_exactly(name): found for name, found in ranks.items() if found != rank},
        "alpha_pattern": {_exactly(name): found for name, found in alphas.items() if found != alpha},
    }  # fmt: skip


def _exactly(module: str) -> str:
    """A pattern that matches one module."""
    return module.replace(".", r"\.")


def sparse_arrays(module: str, positions: NDArray[Any], values: NDArray[Any], count: int) -> dict[str, Array]:
    """Positions and values of a weight, padded to `count` with zeros added to entry 0."""
    padding = np.zeros(count - positions.size, np.int64)
    return {
        f"{module}.supertuning_indices": Array.of(
            np.concatenate([positions.astype(np.int64), padding]).astype(np.int32), "I32"
        ),
        f"{module}.supertuning_values": Array.of(np.concatenate([values, padding]).astype(np.float32), "F32"),
    }


def sparsity_of(sizes: Mapping[str, int], kept: Mapping[str, int]) -> float:
    """The largest sparsity at which PEFT's `int(size * (1 - sparsity))` holds what is kept of every tensor."""
    found = 1 - max(kept[name] / size for name, size in sizes.items())
    step = math.ulp(1.0)
    while any(sparse_count(size, found) < kept[name] for name, size in sizes.items()):
        found = max(0.0, found - step)
        step *= 2
    return max(0.0, found)


def sparse_count(size: int, sparsity: float) -> int:
    """How many entries PEFT's Super-Tuning allots to a weight of `size` entries."""
    return int(size * (1 - sparsity))
