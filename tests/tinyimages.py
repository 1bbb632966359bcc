"""Small images that a network learns in seconds, in every form that they are read from."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]


def squares(each: int, *, classes: int = 4, size: int = 8, seed: int = 0) -> tuple[U8, NDArray[np.int64]]:
    """Grey noise with a bright corner, one a class, (image, row, column), and which corner it is."""
    rng = np.random.default_rng(seed)
    label = np.tile(np.arange(classes), each)
    pixels = rng.integers(0, 120, (len(label), size, size))
    half = size // 2
    for image, corner in zip(pixels, label, strict=True):
        top, left = half * (corner // 2), half * (corner % 2)
        image[top : top + half, left : left + half] += 90
    return pixels.astype(np.uint8), label


def idx_bytes(values: U8) -> bytes:
    """IDX, as the MNIST family has it."""
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes((0, 0, 8, values.ndim)) + sizes + values.tobytes()


def write_idx(folder: Path, pixels: U8, label: NDArray[np.int64], *, split: str = "train", packed: bool = True) -> Path:
    """The pair of files of a split in a folder."""
    folder.mkdir(exist_ok=True)
    begin = {"train": "train", "test": "t10k"}[split]
    for name, values in (("images-idx3-ubyte", pixels), ("labels-idx1-ubyte", label.astype(np.uint8))):
        content = idx_bytes(values)
        path = folder / f"{begin}-{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


def write_npz(path: Path, pixels: U8, label: NDArray[np.int64]) -> Path:
    """Images and labels in one file."""
    np.savez(path, images=pixels, labels=label)
    return path
