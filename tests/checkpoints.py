"""Small checkpoints for tests, written without the library under test."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

DTYPES = {
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(np.float16): "F16",
    np.dtype(np.float32): "F32",
    np.dtype(np.float64): "F64",
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.uint8): "U8",
    np.dtype(np.int32): "I32",
    np.dtype(np.int64): "I64",
}


def write_file(path: Path, state: Mapping[str, NDArray[Any]]) -> None:
    """A safetensors file of these arrays, in their order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in state.items():
        offsets = [at, at + array.nbytes]
        header[name] = {"dtype": DTYPES[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in state.values()))


def write_checkpoint(folder: Path, state: Mapping[str, NDArray[Any]]) -> Path:
    """A directory with `model.safetensors` and a small `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "model.safetensors", state)
    (folder / "config.json").write_text('{"model_type": "test"}')
    return folder
