"""A folder with one folder a class, whose files Pillow reads."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deltagram.errors import ExtraError, SettingError

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_GREY: Final = ("1", "L")


def read_folder(folder: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """Pixels (image, row, column, channel) and the name of each one's folder; one channel if all images are grey.

    Files are taken in the order of their names; hidden ones are left out. Raises SettingError for images of several
    sizes, files that are no images, and a folder of another layout; ExtraError without Pillow.
    """
    files = _files(folder)
    image = _pillow()
    found: list[NDArray[np.uint8]] = []
    modes, first = set(), files[0]
    for path in files:
        try:
            with image.open(path) as opened:
                modes.add(opened.mode)
                made = np.asarray(opened.convert("L" if opened.mode in _GREY else "RGB"), np.uint8)
        except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as fault:
            reason = " ".join(str(fault).split())[:160]
            raise SettingError(str(path), f"is no image that Pillow reads ({reason})", fix="remove it") from None
        if found and made.shape[:2] != found[0].shape[:2]:
            raise SettingError(
                str(path), f"is {_size(made)}, and {first.name} of class {first.parent.name} is {_size(found[0])}",
                expected="images of one size", fix="bring them to one size first",
            )  # fmt: skip
        found.append(made)
    if modes <= set(_GREY):
        return np.stack(found)[..., None], [path.parent.name for path in files]
    colour = [made if made.ndim == 3 else np.repeat(made[..., None], 3, axis=2) for made in found]
    return np.stack(colour), [path.parent.name for path in files]


def _files(folder: Path) -> list[Path]:
    """The images of all classes."""
    if not folder.is_dir():
        raise SettingError(str(folder), "is no folder", expected="one with a folder a class")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise SettingError(str(folder), "has no folder a class in it", fix="put each class's images into one")
    files: list[Path] = []
    for each in classes:
        there = sorted(path for path in each.iterdir() if not path.name.startswith("."))
        odd = [path for path in there if path.suffix.lower() not in SUFFIXES]
        if odd:
            deeper = " (is it a split? name it with --split)" if odd[0].is_dir() else ""
            found = f"is no image by its name{deeper}"
            raise SettingError(str(odd[0]), found, expected=" or ".join(SUFFIXES), fix="remove it")
        if not there:
            raise SettingError(str(each), "is a class without an image", fix="remove the folder or fill it")
        files += there
    return files


def _pillow() -> Any:
    try:
        from PIL import Image  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        found = "package pillow is not installed"
        raise ExtraError("images in folders", found, fix="pip install 'deltagram[images]'") from None
    return Image


def _size(made: NDArray[np.uint8]) -> str:
    return f"{made.shape[1]} x {made.shape[0]}"
