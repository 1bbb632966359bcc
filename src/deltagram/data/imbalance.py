"""Imbalanced data from balanced: how many samples each class keeps, and which."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deltagram.errors import SettingError
from deltagram.seeds import key, words

I64 = NDArray[np.int64]

_ROUNDING = 1 + 8 * float(np.finfo(np.float64).eps)  # so that 5000 / 100 stays 50 after a power and a product


def class_counts(labels: ArrayLike, *, classes: int | None = None) -> I64:
    """Samples a class, (class), empty ones included; `classes` is one more than the largest label unless given.

    Raises SettingError for labels that are not whole numbers from 0 to classes - 1, and for none at all.

    >>> class_counts([0, 2, 2], classes=4)
    array([1, 0, 2, 0])
    """
    return np.bincount(checked_labels(labels, classes=classes), minlength=classes or 0).astype(np.int64)


def step_counts(
    classes: int, *, largest: int, ratio: float, minority: float = 0.5, seed: int | None = None,
    minority_classes: ArrayLike | None = None,
) -> I64:  # fmt: skip
    """(R, rho)-STEP imbalance of arXiv 2208.05512: rho k classes have `largest` / R samples, the others `largest`.

    R is `ratio`, rho is `minority`. The minority are the last classes, or drawn by `seed`, or `minority_classes`
    (whose number then takes the place of rho k). `largest` / R is rounded to the nearest whole number. Raises
    SettingError if that is 0, if rho k is no whole number, and if there is no majority or no minority.

    >>> step_counts(4, largest=500, ratio=10)
    array([500, 500,  50,  50])
    """
    _check(classes, largest=largest, ratio=ratio)
    counts = np.full(classes, largest, np.int64)
    fewest = round(largest / ratio)
    if fewest < 1:
        raise SettingError("ratio", f"is {ratio:g}, which leaves {largest / ratio:.3g} samples", expected="1 or more")
    if minority_classes is not None:
        few = np.unique(checked_labels(minority_classes, classes=classes))
        found = f"{len(few)} classes"
    else:
        share = minority * classes
        if not math.isclose(share, round(share), abs_tol=1e-9):
            expected = f"a whole number of the {classes} classes"
            raise SettingError("minority", f"is {minority:g}, which makes {share:g}", expected=expected)
        few, found = _order(classes, seed)[classes - round(share) :], f"{round(share)} classes"
    if not 0 < len(few) < classes:
        raise SettingError("minority", f"is {found} of {classes}", expected=f"1 to {classes - 1}")
    counts[few] = fewest
    return counts


def long_tail_counts(classes: int, *, largest: int, ratio: float, seed: int | None = None) -> I64:
    """Exponential imbalance of Cui et al., CVPR 2019: n_c = floor(`largest` mu^c), mu = R^(-1/(k-1)), R = `ratio`.

    Class 0 is the largest, or, with `seed`, the order is drawn. CIFAR10-LT of R = 100:

    >>> long_tail_counts(10, largest=5000, ratio=100)
    array([5000, 2997, 1796, 1077,  645,  387,  232,  139,   83,   50])
    """
    _check(classes, largest=largest, ratio=ratio)
    return _placed(largest * float(ratio) ** (-np.arange(classes) / (classes - 1)), seed=seed)


def power_law_counts(classes: int, *, largest: int, ratio: float, seed: int | None = None) -> I64:
    """Power-law (Zipf, Pareto) imbalance: n_c = floor(`largest` (c + 1)^-a) with a = log R / log k, R = `ratio`.

    Sorted sizes drawn from a Pareto distribution of index alpha fall so, with a = 1/alpha. Class 0 is the largest,
    or, with `seed`, the order is drawn.

    >>> power_law_counts(4, largest=100, ratio=4)
    array([100,  50,  33,  25])
    """
    _check(classes, largest=largest, ratio=ratio)
    exponent = math.log(ratio) / math.log(classes)
    return _placed(largest * np.arange(1, classes + 1, dtype=np.float64) ** -exponent, seed=seed)


def imbalanced_subset(labels: ArrayLike, counts: ArrayLike, *, seed: int = 0) -> I64:
    """Indices, rising, of samples of which `counts` belong to each class; drawn by (seed, index).

    Of one seed the subset of smaller counts is part of that of larger ones. Raises SettingError where a class has
    fewer samples than wanted.

    >>> imbalanced_subset([0, 1, 0, 1, 1], [2, 1]).tolist()
    [0, 2, 4]
    """
    wanted = np.asarray(counts)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or (wanted < 0).any():
        raise SettingError("counts", f"are {wanted.tolist()}", expected="a whole number of samples a class")
    label = checked_labels(labels, classes=len(wanted))
    there = np.bincount(label, minlength=len(wanted))
    if (there < wanted).any():
        first = int(np.argmax(there < wanted))
        raise SettingError(
            "counts", f"want {wanted[first]} samples of class {first}", expected=f"at most {there[first]}"
        )
    order = np.lexsort((words(key(seed, "imbalanced subset"), 0, len(label)), label))
    rank = np.arange(len(label)) - (np.cumsum(there) - there)[label[order]]
    return np.sort(order[rank < wanted[label[order]]]).astype(np.int64)


def checked_labels(labels: ArrayLike, *, classes: int | None = None) -> I64:
    """Labels as int64, (sample). Raises SettingError unless they are whole numbers from 0 (to classes - 1)."""
    found = np.asarray(labels)
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu":
        what = f"are of shape {found.shape} and type {found.dtype}"
        raise SettingError("labels", what, expected="one whole number a sample")
    wrong = (found < 0) if classes is None else (found < 0) | (found >= classes)
    if wrong.any():
        first = int(np.argmax(wrong))
        expected = "0 or more" if classes is None else f"0 to {classes - 1}"
        raise SettingError("labels", f"sample {first} has label {found[first]}", expected=expected)
    return found.astype(np.int64)


def _placed(sizes: NDArray[np.float64], *, seed: int | None) -> I64:
    """Sizes, falling, rounded down and given to classes in order or in one drawn."""
    counts = np.empty(len(sizes), np.int64)
    counts[_order(len(sizes), seed)] = np.floor(sizes * _ROUNDING).astype(np.int64)
    if counts.min() < 1:
        raise SettingError("ratio", "leaves 0 samples in the smallest class", expected="1 or more", fix="lower it")
    return counts


def _order(classes: int, seed: int | None) -> NDArray[np.intp]:
    """Classes from large to small: as they are, or drawn by `seed`."""
    if seed is None:
        return np.arange(classes)
    return np.argsort(words(key(seed, "order of classes"), 0, classes), kind="stable")


def _check(classes: int, *, largest: int, ratio: float) -> None:
    if classes < 2:
        raise SettingError("classes", f"is {classes}", expected="2 or more")
    if largest < 1:
        raise SettingError("largest", f"is {largest}", expected="1 or more")
    if not 1 <= ratio < math.inf:
        raise SettingError("ratio", f"is {ratio:g}", expected="1 (balanced) or more")
