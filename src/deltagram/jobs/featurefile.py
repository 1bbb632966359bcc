"""Features, labels and perhaps a classifier from a file of arrays."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import as_floats
from deltagram.errors import SettingError
from deltagram.store.checkpoint import open_checkpoint

NAMES = ("features", "labels", "classifier", "bias")
SUFFIXES = (".npz", ".safetensors")


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureFile:
    """features (sample, feature), labels (sample), classifier (class, feature) and bias (class) as a file has them."""

    features: NDArray[Any]
    labels: NDArray[Any]
    classifier: NDArray[Any] | None
    bias: NDArray[Any] | None


def read_features(path: Path) -> FeatureFile:
    """The arrays of a .npz or .safetensors file. Raises SettingError for other files, and where one is missing."""
    if not path.is_file():
        raise SettingError(str(path), "does not exist", expected=f"a file of arrays ({' or '.join(SUFFIXES)})")
    if path.stat().st_size == 0:
        raise SettingError(str(path), "is empty", expected=f"the arrays {', '.join(NAMES[:2])}")
    found = _zipped(path) if path.suffix == ".npz" else _tensors(path)
    for name in NAMES[:2]:
        if name not in found:
            raise SettingError(
                str(path), f"has no array {name!r}, but {', '.join(map(repr, found)) or 'none at all'}",
                expected="features (sample, feature) and labels (sample); classifier and bias if there are any",
                fix="save it again with those names",
            )  # fmt: skip
    if not found["labels"].size:
        raise SettingError(str(path), "has no sample", expected="one or more")
    return FeatureFile(
        features=found["features"], labels=found["labels"], classifier=found.get("classifier"), bias=found.get("bias")
    )


def _zipped(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as fault:
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise SettingError(
            str(path), f"is no .npz of plain arrays ({reason})", fix="write it with numpy.savez"
        ) from None


def _tensors(path: Path) -> Mapping[str, NDArray[Any]]:
    if path.suffix != ".safetensors":
        raise SettingError(str(path), f"has the suffix {path.suffix!r}", expected=" or ".join(SUFFIXES))
    held = open_checkpoint(path)
    return {name: _array(held.bits(name, 0, spec.size), spec.dtype).reshape(spec.shape)
            for name, spec in held.specs.items() if name in NAMES}  # fmt: skip


def _array(bits: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Bit patterns as the numbers they stand for."""
    if dtype[0] in "IU":
        kind = "int" if dtype[0] == "I" else "uint"
        return bits.view(np.dtype(f"{kind}{dtype[1:]}"))
    found = as_floats(bits, dtype)
    return found.astype(np.float32) if dtype == "BF16" else found
