"""How right a classifier is, by the field's names; all between -1 and 1, the higher the better."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64

Classes = NDArray[np.int64] | Sequence[int]


def confusion(found: Classes, label: Classes, *, classes: int) -> F64:
    """Counts, `class class`: row the label, column what was found."""
    pairs = np.asarray(label) * classes + np.asarray(found)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.float64)


def accuracy(counts: F64) -> float:
    """Share of samples put into their class."""
    return float(np.trace(counts) / counts.sum())


def balanced_accuracy(counts: F64) -> float:
    """Mean over the classes that occur of the share of their samples put into them."""
    of_class = counts.sum(1)
    return float(np.mean(np.diag(counts)[of_class > 0] / of_class[of_class > 0]))


def macro_f1(counts: F64) -> float:
    """Mean over the classes that occur or are found of the harmonic mean of precision and recall."""
    both = counts.sum(0) + counts.sum(1)
    return float(np.mean(2 * np.diag(counts)[both > 0] / both[both > 0]))


def matthews(counts: F64) -> float:
    """Matthews' correlation, for any number of classes (Gorodkin 2004); 0 where one side is constant."""
    total, found, of_class = counts.sum(), counts.sum(0), counts.sum(1)
    covariance = total * np.trace(counts) - found @ of_class
    scale = np.sqrt(total**2 - found @ found) * np.sqrt(total**2 - of_class @ of_class)
    return float(covariance / scale) if scale > 0 else 0.0


METRICS: Final[Mapping[str, Callable[[F64], float]]] = {
    "accuracy": accuracy,
    "balanced-accuracy": balanced_accuracy,
    "f1": macro_f1,
    "matthews": matthews,
}
