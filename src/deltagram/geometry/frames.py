"""The two symmetric frames: the simplex, where features are free, and the orthogonal frame, where none is negative."""

import numpy as np

from deltagram.errors import SettingError
from deltagram.geometry.gram import Geometry
from deltagram.geometry.matrix import Matrix


def etf(classes: int) -> Geometry:
    """The simplex equiangular tight frame, `I - 1 1^T / k`: what balanced cross-entropy leads to.

    Papyan, Han and Donoho, PNAS 117 (2020); SELI of equal counts.

    >>> etf(5).classifier_cosines()[0, 1].round(12)
    np.float64(-0.25)
    """
    k = _several(classes)
    ones = np.ones((k, 1))
    gram = Matrix(diagonal=np.ones(k), left=-ones / k, right=ones)
    return Geometry(name="etf", classifiers=gram, means=gram, logits=gram, counts=np.ones(k))


def orthogonal_frame(classes: int) -> Geometry:
    """Orthogonal vectors of one norm, classifiers equal to means: where features are not negative, as after a ReLU.

    Not centred: measure with centring "none".
    """
    k = _several(classes)
    none = np.zeros((k, 0))
    eye = Matrix(diagonal=np.ones(k), left=none, right=none)
    return Geometry(name="orthogonal-frame", classifiers=eye, means=eye, logits=eye, counts=np.ones(k))


def _several(classes: int) -> int:
    if classes < 2:
        raise SettingError("classes", str(classes), expected="two or more")
    return classes
