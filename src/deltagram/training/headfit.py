"""After contrastive training: the geometry of the embeddings, a head fitted to them, and what is told apart by them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from deltagram.arrays import F32, F64
from deltagram.errors import SettingError
from deltagram.geometry.gram import Geometry, compare
from deltagram.geometry.measure import collapse
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.nearest import decisions
from deltagram.training.batches import I64
from deltagram.training.contrastive import embeddings
from deltagram.training.embedding import Tap
from deltagram.training.metrics import METRICS, recall
from deltagram.training.observed import last_linear
from deltagram.training.probe import linear_probe
from deltagram.training.tasks import Classification


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """A model's embeddings: of norm 1 as they are compared, and the raw inputs of its head, (sample, feature)."""

    raw: F32
    compared: F32
    label: I64

    @classmethod
    def of(cls, torch: Any, model: Any, task: Classification, *, tap: Tap, activation: str) -> "Embedded":
        """Of all examples of a task, in evaluation mode."""
        raw, compared = embeddings(torch, model, task, tap=tap, activation=activation)
        return cls(raw=raw, compared=compared, label=np.asarray(task.label, np.int64))


def fit_head(torch: Any, model: Any, found: Embedded, *, class_weight: F64 | None) -> None:
    """Put a linear probe of the head's inputs where the head is. Raises SettingError for a head that does not train."""
    head = last_linear(model, None)
    if not isinstance(head.weight, torch.nn.Parameter):
        raise SettingError("fixed_classifier", "cannot be fitted", fix="leave it out: prototypes are what is fixed")
    there = head.bias is not None
    w, b = linear_probe(
        found.raw, found.label, classes=len(head.weight), class_weight=class_weight, bias=there
    )  # fmt: skip
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(w))
        if there:
            head.bias.copy_(torch.from_numpy(b))


def by_nearest_mean(trained: Embedded, held_out: Embedded, *, classes: int) -> dict[str, Any]:
    """Accuracy, balanced accuracy and recall of the nearest class mean of the training embeddings."""
    moments = ClassMoments.of(trained.compared, trained.label, classes=classes, scatter="trace")
    nearest = decisions(held_out.compared, moments, classifier=moments.means).nearest
    found: dict[str, Any] = {name: METRICS[name](held_out.label, nearest) for name in ("accuracy", "balanced-accuracy")}
    return {**found, "recall": recall(held_out.label, nearest)}


def shape(found: Embedded, target: Geometry, *, classes: int) -> dict[str, float | None]:
    """How far class means, not centred, are from a geometry as Grams; collapse within classes, and cosines.

    `nc1` is tr(S_W S_B^+), which sees only the span of the class means; `nc1_ratio` is tr S_W / tr S_B, all of it.
    """
    moments = ClassMoments.of(found.compared, found.label, classes=classes)
    spread = collapse(moments, weighting="mixed")
    geometry = moments.geometry(centring="none")
    cosines = geometry.mean_cosines()[~np.eye(geometry.classes, dtype=bool)]
    return {
        "gram_distance": compare(geometry, target).means, "nc1": spread.nc1, "nc1_ratio": spread.nc1_ratio,
        "mean_cosine": float(cosines.mean()), "largest_cosine": float(cosines.max()),
    }  # fmt: skip
