"""Imbalanced texts (Reuters R8, 70 to 1) with MiniLM: cross-entropy beside contrastive losses, balanced accuracies.

Not judged: rows beside Q1, under `--full`.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from deltagram.errors import ExtraError
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.nearest import decisions
from deltagram.papers.bench import Bench, Variant, texts_digest
from deltagram.papers.ceparam_texts import R8, heads
from deltagram.papers.contrastnets import distances
from deltagram.papers.darex_training import by_job
from deltagram.papers.points import Row
from deltagram.papers.tasks import Task
from deltagram.training.metrics import METRICS

LOSSES: Final[Mapping[str, Mapping[str, Any]]] = {
    "ce": {},
    "scl": {"loss": "scl", "sampler": "binding"},
    "scl-reshuffled": {"loss": "scl"},
    "scl-prototypes": {"loss": "scl-prototypes", "design": "of", "copies": 10.0},
    "scl-simplex": {"loss": "scl-prototypes", "design": "etf", "copies": 100.0},
}


def texts(bench: Bench, *, seed: int, task: Task = R8) -> list[Row]:
    """A row a loss: balanced accuracies of the head and of the nearest class mean, and the shape of class means.

    Where a package is missing, one row says so.
    """
    try:
        return [_row(bench, task, loss, seed) for loss in LOSSES]
    except ExtraError as fault:
        return [{"texts": task.name, "not_run": str(fault)}]


def _row(bench: Bench, task: Task, loss: str, seed: int) -> Row:
    variant = by_job(bench, task, seed=seed, name=f"contrast-{loss}", **LOSSES[loss])
    told = {"contrast texts": variant.name, "loss": loss, "seed": seed, "test": texts_digest(variant.data.test)}
    return told | bench.notes.once(
        told, lambda: _measured(variant, relu=loss.startswith("scl") and loss != "scl-simplex")
    )


def _measured(variant: Variant, *, relu: bool) -> dict[str, Any]:
    """What is compared is the head's input, behind a ReLU where the loss has it, of norm 1."""
    (train, w, bias), (test, _, _) = (heads(variant, part) for part in (variant.data.train, variant.data.test))
    label, true = (np.asarray(part.label, np.int64) for part in (variant.data.train, variant.data.test))
    seen = [np.maximum(part, 0.0) if relu else part for part in (train, test)]
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in seen]
    moments = ClassMoments.of(unit[0], label, classes=len(w), scatter="trace")
    nearest = decisions(unit[1], moments, classifier=moments.means).nearest
    score = METRICS["balanced-accuracy"]
    return {
        "counts": moments.counts.tolist(), "balanced": float(score(true, (test @ w.T + bias).argmax(1))),
        "nearest_balanced": float(score(true, nearest)), **distances(moments.geometry(centring="none"), None),
    }  # fmt: skip
