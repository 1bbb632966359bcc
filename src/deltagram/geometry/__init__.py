"""The geometry of classes, and of words and contexts: predicted, measured, compared."""

from deltagram.geometry.gram import Comparison, Geometry, compare
from deltagram.geometry.matrix import Matrix, distance
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.wordcontext import WordContext, WordContextComparison, compare_tokens

__all__ = [
    "ClassMoments", "Comparison", "Geometry", "Matrix", "WordContext", "WordContextComparison", "compare",
    "compare_tokens", "distance",
]  # fmt: skip
