"""Texts and labels that jobs run on, and where they are kept."""

from deltagram.data.packages import TextClassification, Texts, minilm, reuters_r8, rotten_tomatoes
from deltagram.data.tables import Table, class_index, read_table

__all__ = [
    "Table",
    "TextClassification",
    "Texts",
    "class_index",
    "minilm",
    "read_table",
    "reuters_r8",
    "rotten_tomatoes",
]
