"""A geometry in a few rows: classes of one count together, or by tenths of the classes where counts are many."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64
from deltagram.geometry.gram import Geometry, norms
from deltagram.geometry.matrix import Matrix

_ROWS = 12
_PARTS = 10


@dataclass(frozen=True, kw_only=True)
class Row:
    """Classes of `least` to `most` samples: means of norms, and of cosines over pairs inside and with the others.

    Cosines are None where there are no pairs; what concerns classifiers is None where there are none.
    """

    classes: int
    least: float
    most: float
    mean_norm: float
    mean_cosine: float | None
    mean_cosine_others: float | None
    classifier_norm: float | None = None
    classifier_cosine: float | None = None
    classifier_cosine_others: float | None = None
    alignment: float | None = None


def rows(geometry: Geometry) -> list[Row]:
    """From the classes with most samples to those with fewest. Takes O(k rank) time."""
    parts = groups(geometry.counts)
    means = _cosine_rows(geometry.means, parts)
    classifiers: list[dict[str, Any]] = [{} for _ in parts]
    if geometry.classifiers is not None:
        aligned = geometry.alignment()
        found = _cosine_rows(geometry.classifiers, parts)
        classifiers = [
            {"classifier_norm": size, "classifier_cosine": inside, "classifier_cosine_others": outside,
             "alignment": float(aligned[part].mean())}
            for part, (size, inside, outside) in zip(parts, found, strict=True)
        ]  # fmt: skip
    return [
        Row(
            classes=len(part), least=float(geometry.counts[part].min()), most=float(geometry.counts[part].max()),
            mean_norm=size, mean_cosine=inside, mean_cosine_others=outside, **more,
        )
        for part, (size, inside, outside), more in zip(parts, means, classifiers, strict=True)
    ]  # fmt: skip


def groups(counts: F64) -> list[NDArray[np.intp]]:
    """Classes of one count each, the largest count first; tenths of the classes if there are more than 12 counts.

    >>> [part.tolist() for part in groups(np.array([5.0, 9.0, 5.0]))]
    [[1], [0, 2]]
    """
    order = np.argsort(-counts, kind="stable")
    distinct, starts = np.unique(-counts[order], return_index=True)
    if len(distinct) <= _ROWS:
        return np.split(order, starts[1:])
    return [part for part in np.array_split(order, _PARTS) if len(part)]


def _cosine_rows(gram: Matrix, parts: list[NDArray[np.intp]]) -> list[tuple[float, float | None, float | None]]:
    """Norm, cosine inside and cosine with all others, a part each."""
    size = norms(gram)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = gram.scaled(1 / size, 1 / size)
    every = np.arange(gram.classes)
    found: list[tuple[float, float | None, float | None]] = []
    for part in parts:
        m, rest = len(part), np.setdiff1d(every, part, assume_unique=True)
        inside = unit.within(part) / (m * (m - 1)) if m > 1 else None
        outside = unit.between(part, rest) / (m * len(rest)) if len(rest) else None
        found.append((float(size[part].mean()), inside, outside))
    return found
