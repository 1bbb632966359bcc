"""IDX, the format of the MNIST family: big-endian sizes, then bytes; gzipped or not."""

import gzip
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deltagram.errors import SettingError

_MAGIC: Final = {1: 0x00000801, 3: 0x00000803}  # of unsigned bytes, by the number of axes
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
_SPLITS: Final = {"train": ("train-",), "test": ("t10k-", "test-")}


def named(path: Path) -> bool:
    """Whether a file's name says that it is IDX images."""
    return _IMAGES in path.name.replace("images.idx3", "images-idx3")


def labels_beside(images: Path) -> Path:
    """The file of labels that goes with one of images. Raises SettingError if there is none."""
    name = images.name.replace(_IMAGES, _LABELS).replace("images.idx3-ubyte", "labels.idx1-ubyte")
    plain = name.removesuffix(".gz")
    for candidate in (name, plain, f"{plain}.gz"):
        if images.with_name(candidate).is_file():
            return images.with_name(candidate)
    raise SettingError(str(images), "has no labels beside it", expected=str(images.with_name(name)))


def in_folder(folder: Path, *, split: str | None) -> tuple[Path, Path] | None:
    """Images and labels of a split (train unless given) in a folder; None if it holds no IDX images.

    Raises SettingError where it holds some, but not those.
    """
    there = sorted(path for path in folder.iterdir() if path.is_file() and named(path))
    if not there:
        return None
    begin = _SPLITS.get(split or "train", (f"{split}-",))
    found = [path for path in there if path.name.startswith(begin)]
    if not found:
        names = ", ".join(path.name for path in there)
        raise SettingError("split", f"{split or 'train'!r} of {folder}, which holds {names}", expected="train or test")
    return found[0], labels_beside(found[0])


def read(path: Path, *, axes: int) -> NDArray[np.uint8]:
    """The array of unsigned bytes in a file, of 1 axis (labels) or 3 (image, row, column).

    Raises SettingError for another kind of file, and one that is longer or shorter than it says.
    """
    head = 4 * (1 + axes)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                start = file.read(head)
                if len(start) < head or int.from_bytes(start[:4]) != _MAGIC[axes]:
                    what = f"begins with {start[:4].hex() or 'nothing'}"
                    raise SettingError(str(path), what, expected=f"{_MAGIC[axes]:08x}: IDX bytes of {axes} axes")
                shape = tuple(int.from_bytes(start[at : at + 4]) for at in range(4, head, 4))
                size = int(np.prod(shape, dtype=object))
                body = file.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise SettingError(str(path), f"is a damaged gzip file ({fault})", fix="fetch it again") from None
    if len(body) != size:
        found = f"says {' x '.join(map(str, shape))} and holds {'more' if len(body) > size else f'{len(body):,} bytes'}"
        raise SettingError(str(path), found, expected=f"{size:,} bytes", fix="fetch it again")
    return np.frombuffer(body, np.uint8).reshape(shape)
