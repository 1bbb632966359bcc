"""How good predictions are: a number from true and predicted classes."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


def accuracy(true: I64, guess: I64) -> float:
    """Share of the predictions that are right.

    >>> accuracy(np.array([0, 0, 1]), np.array([0, 1, 1])) == 2 / 3
    True
    """
    return float((true == guess).mean())


def balanced_accuracy(true: I64, guess: I64) -> float:
    """Mean over the classes that occur of the share found of each.

    >>> balanced_accuracy(np.array([0, 0, 1]), np.array([0, 1, 1]))
    0.75
    """
    return float(np.mean([(guess[true == label] == label).mean() for label in np.unique(true)]))


def matthews(true: I64, guess: I64) -> float:
    """Matthews correlation, for any number of classes; 0 where all predictions are one class, NaN where all truth is.

    The correlation of the one-hot matrices (Gorodkin 2004, R_K).

    >>> matthews(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    0.5773502691896258
    """
    table = _confusion(true, guess)
    rows, columns, total = table.sum(1), table.sum(0), table.sum()
    truth, guessed = total**2 - (rows**2).sum(), total**2 - (columns**2).sum()
    if not truth:
        return float("nan")
    return float((np.trace(table) * total - rows @ columns) / np.sqrt(truth * guessed)) if guessed else 0.0


def f1(true: I64, guess: I64) -> float:
    """Mean over the classes that occur or are predicted of 2 right / (occurring + predicted): macro F1.

    >>> f1(np.array([0, 0, 1]), np.array([0, 1, 1])) == 2 / 3
    True
    """
    table = _confusion(true, guess)
    both = table.sum(0) + table.sum(1)
    return float(np.mean(2 * np.diag(table)[both > 0] / both[both > 0]))


def recall(true: I64, guess: I64) -> list[float | None]:
    """Share found of each class up to the largest that occurs; None for one that does not.

    >>> recall(np.array([0, 0, 2]), np.array([0, 1, 2]))
    [0.5, None, 1.0]
    """
    there = np.bincount(true)
    right = np.bincount(true[true == guess], minlength=len(there))
    return [float(hit / of) if of else None for hit, of in zip(right, there, strict=True)]


def _confusion(true: I64, guess: I64) -> NDArray[np.float64]:
    """Counts, `class class`: rows are true, columns predicted."""
    classes = int(max(true.max(), guess.max())) + 1
    return np.bincount(true * classes + guess, minlength=classes**2).reshape(classes, classes).astype(np.float64)


METRICS: Final[Mapping[str, Callable[[I64, I64], float]]] = {
    "accuracy": accuracy, "balanced-accuracy": balanced_accuracy, "matthews": matthews, "f1": f1,
}  # fmt: skip
PERPLEXITY: Final = "perplexity"
