"""The geometry of classes: predicted from counts and loss, measured on features, compared."""

from deltagram.geometry.gram import Comparison, Geometry, compare
from deltagram.geometry.matrix import Matrix, distance

__all__ = ["Comparison", "Geometry", "Matrix", "compare", "distance"]
