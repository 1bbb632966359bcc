"""Features and labels as a caller has them - NumPy, torch on any device, lists - as checked arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, F64
from deltagram.errors import SettingError

I64 = NDArray[np.int64]


def array(given: Any) -> NDArray[Any]:
    """`given` as a NumPy array; a tensor of torch is detached and, if it lies on another device, copied.

    bfloat16, which NumPy lacks, becomes float32.
    """
    if hasattr(given, "detach"):
        tensor = given.detach().cpu()
        given = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    found: NDArray[Any] = np.asarray(given)
    return found


def matrix(given: Any, what: str, *, axes: str) -> F32 | F64:
    """A contiguous float32 or float64 array of two axes. Raises SettingError for other shapes, NaN, infinity."""
    found = array(given)
    if found.ndim != 2:
        raise SettingError(what, f"have the shape {found.shape}", expected=f"two axes ({axes})")
    if found.dtype.kind not in "fiub" and found.dtype.name != "bfloat16":
        raise SettingError(what, f"are of type {found.dtype}", expected="numbers")
    narrow = found.dtype == np.float32 or (found.dtype.itemsize == 2 and found.dtype.kind not in "iu")
    made: Any = np.ascontiguousarray(found, np.float32 if narrow else np.float64)
    flat: NDArray[Any] = made.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        square = flat @ flat
    if not np.isfinite(square) and not (whole := np.isfinite(made)).all():  # the square alone may overflow
        row, column = np.argwhere(~whole)[0]
        of_row, of_column = axes.split(", ")
        where = f"{what}, {of_row} {row}, {of_column} {column}"
        raise SettingError(where, f"{made[row, column]}", expected="finite numbers", fix="remove it or mend its source")
    checked: F32 | F64 = made
    return checked


def class_numbers(given: Any, *, classes: int | None) -> I64:
    """Labels as whole numbers. Raises SettingError for the first that is none, or lies outside 0 to `classes` - 1."""
    found = array(given)
    if found.ndim != 1:
        raise SettingError("labels", f"have the shape {found.shape}", expected="one axis (sample)")
    if found.dtype.kind not in "iu" and found.size:
        raise SettingError("labels", f"are of type {found.dtype}", expected="integers, the classes' numbers")
    top = np.iinfo(np.int64).max if classes is None else classes - 1
    wrong = (found < 0) | (found > top)
    if wrong.any():
        at = int(np.argmax(wrong))
        expected = "0 or more" if classes is None else f"0 to {top}"
        fix = "leave such samples out" if found[at] < 0 else "raise the number of classes, or correct the label"
        raise SettingError(f"labels, sample {at}", f"label {found[at]}", expected=expected, fix=fix)
    return np.ascontiguousarray(found, np.int64)


def samples(features: Any, labels: Any, *, classes: int, width: int | None = None) -> tuple[F32 | F64, I64]:
    """Checked features (sample, feature) and labels (sample), as many of one as of the other.

    Raises SettingError, naming the sample, for NaN, infinity, a label outside the range, or shapes that do not match.
    """
    x, y = matrix(features, "features", axes="sample, feature"), class_numbers(labels, classes=classes)
    if len(x) != len(y):
        raise SettingError("features and labels", f"are of {len(x)} and {len(y)} samples", expected="as many of both")
    if width is not None and x.shape[1] != width:
        raise SettingError("features", f"have {x.shape[1]} dimensions", expected=f"{width}, as those before")
    return x, y


def classifier_weights(given: Any, *, classes: int, width: int) -> F32 | F64:
    """Classifier weights (class, feature). Raises SettingError where they fit neither the classes nor the features."""
    found = matrix(given, "classifier", axes="class, feature")
    if found.shape != (classes, width):
        turned = "; give its transpose" if found.shape == (width, classes) else ""
        expected = f"({classes}, {width}): a row a class, of the features' dimension{turned}"
        raise SettingError("classifier", f"has the shape {found.shape}", expected=expected)
    return found


def bias_of(given: Any, *, classes: int) -> F64:
    """A bias a class, (class); zeros for None. Raises SettingError for another shape, NaN or infinity."""
    if given is None:
        return np.zeros(classes)
    found = np.asarray(array(given), np.float64)
    if found.shape != (classes,) or not np.isfinite(found).all():
        raise SettingError("bias", f"has the shape {found.shape}", expected=f"({classes},), finite numbers")
    return found
