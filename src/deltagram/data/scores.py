"""How good predictions are, class by class, from three counts a class: never a class-by-class table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deltagram.arrays import F64
from deltagram.errors import SettingError

I64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassScores:
    """Samples of each class, predictions of it, and those that are right, (class); parts of a stream add up.

    A rate with nothing under it is NaN, and means leave such classes out: recall of classes that do not occur,
    precision of those never predicted; F1 is 0 where only one of the two is missing (as scikit-learn has it).
    """

    occurring: I64
    predicted: I64
    right: I64

    @classmethod
    def of(cls, true: ArrayLike, guess: ArrayLike, *, classes: int | None = None) -> Self:
        """From true and predicted classes, (sample); `classes` is one more than the largest unless given.

        >>> ClassScores.of([0, 0, 1], [0, 1, 1]).balanced_accuracy
        0.75

        Raises SettingError for a class outside 0 to classes - 1, none at all, or other lengths.
        """
        truth, said = (_numbers(given, what) for given, what in ((true, "true classes"), (guess, "predicted classes")))
        if truth.shape != said.shape or not len(truth):
            raise SettingError("scores", f"of {len(truth)} true and {len(said)} predicted classes",
                               expected="as many of both, one or more")  # fmt: skip
        many = int(max(truth.max(), said.max())) + 1 if classes is None else classes
        for numbers, what in ((truth, "true classes"), (said, "predicted classes")):
            if numbers.min() < 0 or numbers.max() >= many:
                at = int(np.argmax((numbers < 0) | (numbers >= many)))
                raise SettingError(f"{what}, sample {at}", f"class {numbers[at]}", expected=f"0 to {many - 1}")
        return cls(
            occurring=np.bincount(truth, minlength=many), predicted=np.bincount(said, minlength=many),
            right=np.bincount(truth[truth == said], minlength=many),
        )  # fmt: skip

    def __add__(self, other: Self) -> Self:
        if len(self.occurring) != len(other.occurring):
            found = f"of {len(self.occurring)} and of {len(other.occurring)} classes"
            raise SettingError("scores", found, expected="the same number to add up")
        return type(self)(
            occurring=self.occurring + other.occurring, predicted=self.predicted + other.predicted,
            right=self.right + other.right,
        )  # fmt: skip

    @property
    def recall(self) -> F64:
        """Share found of each class, (class); its mean over a class's samples is the class's accuracy."""
        return _rate(self.right, self.occurring)

    @property
    def precision(self) -> F64:
        """Share of the predictions of each class that are right, (class)."""
        return _rate(self.right, self.predicted)

    @property
    def f1(self) -> F64:
        """2 right / (occurring + predicted), (class)."""
        return _rate(2 * self.right, self.occurring + self.predicted)

    @property
    def accuracy(self) -> float:
        """Share of the samples that are right."""
        return float(self.right.sum() / self.occurring.sum())

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that occur."""
        return float(np.nanmean(self.recall))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur or are predicted."""
        return float(np.nanmean(self.f1))

    @property
    def worst(self) -> tuple[int, float]:
        """The class of the lowest recall (the first of several) and that recall."""
        at = int(np.nanargmin(self.recall))
        return at, float(self.recall[at])

    def shots(self, training_counts: ArrayLike, *, many: int = 100, few: int = 20) -> Mapping[str, float]:
        """Mean recall of classes by their samples in training: more than `many`, fewer than `few`, and between.

        The bounds are those in use for long-tailed data (Liu et al. 2019, arXiv 1904.05160). NaN for a group without
        a class that occurs. Raises SettingError for another number of counts.
        """
        counts = np.asarray(training_counts)
        if counts.shape != self.occurring.shape:
            raise SettingError("training counts", f"are {counts.size}", expected=f"{len(self.occurring)}, one a class")
        groups = {"many": counts > many, "medium": (counts >= few) & (counts <= many), "few": counts < few}
        there = self.occurring > 0
        return {
            name: float(self.recall[group & there].mean()) if (group & there).any() else float("nan")
            for name, group in groups.items()
        }


def _rate(part: I64, whole: I64) -> F64:
    found: F64 = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return found


def _numbers(given: Any, what: str) -> I64:
    found = np.asarray(given)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise SettingError(what, f"of type {found.dtype} and shape {found.shape}", expected="integers on one axis")
    return found.astype(np.int64, copy=False)
