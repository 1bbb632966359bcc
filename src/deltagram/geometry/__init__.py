"""The geometry of classes: predicted from counts and loss, measured on features, compared."""

from deltagram.geometry.gram import Comparison, Geometry, compare
from deltagram.geometry.matrix import Matrix, distance
from deltagram.geometry.moments import ClassMoments

__all__ = ["ClassMoments", "Comparison", "Geometry", "Matrix", "compare", "distance"]
