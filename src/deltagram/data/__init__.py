"""Texts and labels that jobs run on, where they are kept, how many a class has, and batches of them."""

from deltagram.data.imbalance import class_counts, imbalanced_subset, long_tail_counts, power_law_counts, step_counts
from deltagram.data.packages import TextClassification, Texts, minilm, reuters_r8, rotten_tomatoes
from deltagram.data.samplers import ClassBalancedBatchSampler
from deltagram.data.tables import Table, class_index, read_table

__all__ = [
    "ClassBalancedBatchSampler",
    "Table",
    "TextClassification",
    "Texts",
    "class_counts",
    "class_index",
    "imbalanced_subset",
    "long_tail_counts",
    "minilm",
    "power_law_counts",
    "read_table",
    "reuters_r8",
    "rotten_tomatoes",
    "step_counts",
]
