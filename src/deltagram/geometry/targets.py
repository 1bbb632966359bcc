"""Symmetric geometries that a measurement is held against, by name."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from deltagram.arrays import F64
from deltagram.geometry.gram import Geometry
from deltagram.geometry.matrix import Matrix


def simplex(counts: F64) -> Geometry:
    """The simplex equiangular tight frame of k classes: I - 11^T/k for means, classifiers and logits.

    What balanced cross-entropy leads to (Papyan, Han and Donoho 2020); the counts are only carried along.

    >>> simplex(np.ones(3)).mean_cosines().round(2)
    array([[ 1. , -0.5, -0.5],
           [-0.5,  1. , -0.5],
           [-0.5, -0.5,  1. ]])
    """
    classes = len(counts)
    ones = np.ones((classes, 1))
    gram = Matrix(diagonal=np.ones(classes), left=-ones / classes, right=ones)
    return Geometry(name="etf", means=gram, classifiers=gram, logits=gram, counts=np.asarray(counts, np.float64))


def orthogonal(counts: F64) -> Geometry:
    """An orthogonal frame of k classes: the identity for means, classifiers and logits.

    Where features are not negative, as after a ReLU; measure with centring "none".
    """
    none = np.zeros((len(counts), 0))
    gram = Matrix(diagonal=np.ones(len(counts)), left=none, right=none)
    return Geometry(
        name="orthogonal-frame", means=gram, classifiers=gram, logits=gram, counts=np.asarray(counts, np.float64)
    )


TARGETS: Final[Mapping[str, Callable[[F64], Geometry]]] = {"etf": simplex, "orthogonal-frame": orthogonal}
