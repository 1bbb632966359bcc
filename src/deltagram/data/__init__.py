"""Texts and labels that jobs run on, where they are kept, how many a class has, and batches of them."""

from typing import TYPE_CHECKING, Any

from deltagram.data.audit import BatchAudit, audit_batches, describe, epochs_of
from deltagram.data.binding import BindingBatchSampler
from deltagram.data.enlarged import EnlargedBatchSampler
from deltagram.data.imbalance import class_counts, imbalanced_subset, long_tail_counts, power_law_counts, step_counts
from deltagram.data.mperclass import MPerClassBatchSampler
from deltagram.data.packages import TextClassification, Texts, minilm, reuters_r8, rotten_tomatoes
from deltagram.data.reshuffling import expected_epochs
from deltagram.data.samplers import ClassBalancedBatchSampler
from deltagram.data.tables import Table, class_index, read_table

if TYPE_CHECKING:
    from deltagram.data.labels import LabelMatrix

__all__ = [
    "BatchAudit",
    "BindingBatchSampler",
    "ClassBalancedBatchSampler",
    "EnlargedBatchSampler",
    "LabelMatrix",
    "MPerClassBatchSampler",
    "Table",
    "TextClassification",
    "Texts",
    "audit_batches",
    "class_counts",
    "class_index",
    "describe",
    "epochs_of",
    "expected_epochs",
    "imbalanced_subset",
    "long_tail_counts",
    "minilm",
    "power_law_counts",
    "read_table",
    "reuters_r8",
    "rotten_tomatoes",
    "step_counts",
]


def __getattr__(name: str) -> Any:
    """`LabelMatrix`, when it is asked for: scipy takes a while to import."""
    if name != "LabelMatrix":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deltagram.data.labels import LabelMatrix  # noqa: PLC0415

    return LabelMatrix
