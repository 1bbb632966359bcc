"""What supports say before a training: which contexts merge, in what order concepts appear; and how it was scored."""

from typing import Any, Final

import numpy as np

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.geometry.conceptorder import half_learnt, strengths
from deltagram.geometry.concepts import collapse
from deltagram.geometry.cosinestructure import cosine_matrix
from deltagram.geometry.factors import Factors, centred_factors, gradient_factors
from deltagram.papers.bench import Bench
from deltagram.papers.tokenruns import Row, Run, labels_digest

CONCEPTS: Final = 8


def forecast(bench: Bench, labels: LabelMatrix) -> Row:
    """Groups of contexts that merge, and the singular values in whose order concepts appear; written down once.

    `support` are those of the centred supports, `gradient` those along which embeddings near zero grow.
    """
    told = {"forecast": labels_digest(labels), "concepts": CONCEPTS}

    def make() -> Row:
        order = {name: one.sizes.tolist() for name, one in _factors(labels).items()}
        return {"groups": collapse(labels).contexts.tolist(), "order": order}

    return bench.notes.once(told, make)


def _factors(labels: LabelMatrix) -> dict[str, Factors]:
    top = min(CONCEPTS, min(labels.shape) - 1)
    return {"support": centred_factors(labels, top), "gradient": gradient_factors(labels, top)}


def scored(told: Row, run: Run, labels: LabelMatrix) -> list[Row]:
    """The forecast against a training: merged contexts at each snapshot, and the order of concepts."""
    groups = np.asarray(told["groups"], np.int64)
    rows: list[Row] = [
        {"epoch": epoch, "merged": nearest_share(logits, groups)}
        for epoch, logits in zip(run.epochs, run.logits, strict=True)
    ]
    for name, factors in _factors(labels).items():
        seen = half_learnt([strengths(logits, factors) for logits in run.logits])
        epochs = [None if step is None else run.epochs[step] for step in seen]
        agreed = agreement(told["order"][name], epochs)
        rows.append({"order_of": name, "sizes": told["order"][name], "half_at": epochs, "agreed": agreed})
    return rows


def nearest_share(logits: F64, groups: Any) -> float:
    """The share of contexts, of those in a group of two or more, whose nearest context by cosine is of their group."""
    near = cosine_matrix((logits - logits.mean(0)).T)
    np.fill_diagonal(near, -np.inf)
    shared = np.bincount(groups)[groups] > 1
    hit = groups[np.nan_to_num(near, nan=-np.inf).argmax(1)] == groups
    return float(hit[shared].mean())


def agreement(sizes: list[float], epochs: list[int | None]) -> float | None:
    """The share of pairs of concepts that appear in the order of their sizes, of pairs that appear at different epochs.

    1/2 by chance; None where no two differ.

    >>> agreement([3.0, 2.0, 1.0], [1, 10, 10])
    1.0
    """
    seen = [(size, epoch) for size, epoch in zip(sizes, epochs, strict=True) if epoch is not None]
    pairs = [
        one[1] < other[1] for one in seen for other in seen if one[0] > other[0] and one[1] != other[1]
    ]  # fmt: skip
    return float(np.mean(pairs)) if pairs else None
