"""After contrastive training: the geometry of the embeddings, a head fitted to them, and what is told apart by them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from deltagram.arrays import F32
from deltagram.errors import SettingError
from deltagram.geometry.gram import compare
from deltagram.geometry.lowerbounds import batch_bounds, shortfall
from deltagram.geometry.measure import collapse
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.nearest import decisions
from deltagram.training.batches import I64, by_length
from deltagram.training.contrastive import Contrastive
from deltagram.training.metrics import METRICS, recall
from deltagram.training.observed import last_linear
from deltagram.training.probe import linear_probe
from deltagram.training.tasks import Classification

_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """Training examples as a trained model embeds them, (sample, feature), of norm 1; a linear probe is its head."""

    objective: Contrastive
    compared: F32
    label: I64
    classes: int

    @classmethod
    def of(cls, torch: Any, model: Any, task: Classification, objective: Contrastive) -> Self:
        """Embed all examples, and put a linear probe of the head's inputs where the head is.

        Raises SettingError for a head that does not train, and for embeddings that are not finite.
        """
        head = last_linear(model, None)
        if not isinstance(head.weight, torch.nn.Parameter):
            raise SettingError("fixed_classifier", "cannot be fitted", fix="leave it out: prototypes are what is fixed")
        raw, compared = _embedded(torch, model, task, objective)
        label, biased = np.asarray(task.label, np.int64), head.bias is not None
        weight = objective.module.weight
        w, b = linear_probe(
            raw, label, classes=len(head.weight), bias=biased,
            class_weight=None if weight is None else weight.double().cpu().numpy(),
        )  # fmt: skip
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(w))
            if biased:
                head.bias.copy_(torch.from_numpy(b))
        return cls(objective=objective, compared=compared, label=label, classes=len(w))

    def numbers(self, batches: Sequence[I64], *, losses: Sequence[float]) -> dict[str, Any]:
        """The shape of the class means, not centred, and what stands between the last losses and their lower bound.

        `nc1` is tr(S_W S_B^+), which sees only the span of the class means; `nc1_ratio` is tr S_W / tr S_B, all of it.
        `batches` are those of the last `losses`.
        """
        moments = ClassMoments.of(self.compared, self.label, classes=self.classes)
        spread = collapse(moments, weighting="mixed")
        geometry = moments.geometry(centring="none")
        cosines = geometry.mean_cosines()[~np.eye(geometry.classes, dtype=bool)]
        found: dict[str, Any] = {
            "nc1": spread.nc1, "nc1_ratio": spread.nc1_ratio, "mean_cosine": float(cosines.mean()),
            "largest_cosine": float(cosines.max()),
        }  # fmt: skip
        if self.objective.target is not None:
            found |= {"target": self.objective.target.name}
            found |= {"gram_distance": compare(geometry, self.objective.target).means}
        if self.objective.attained:
            bound = float(self._bounds(batches).mean())
            found["shortfall"] = asdict(shortfall(
                float(np.mean(losses)), bound, distance=found["gram_distance"]
            )) | {"loss": float(np.mean(losses)), "bound": bound}  # fmt: skip
        return {"embeddings": found}

    def _bounds(self, batches: Sequence[I64]) -> Any:
        counts = np.stack([np.bincount(self.label[batch], minlength=self.classes) for batch in batches])
        module = self.objective.module
        held = {"copies": module.copies, "class_weight": module.weight}
        told: dict[str, Any] = {name: None if v is None else v.double().cpu().numpy() for name, v in held.items()}
        return batch_bounds(counts, temperature=module.temperature, reduction="mean", **told)

    def by_nearest_mean(self, torch: Any, model: Any, held_out: Classification) -> dict[str, Any]:
        """Accuracy, balanced accuracy and recall on held-out examples of the nearest training class mean."""
        _, compared = _embedded(torch, model, held_out, self.objective)
        moments = ClassMoments.of(self.compared, self.label, classes=self.classes, scatter="trace")
        nearest = decisions(compared, moments, classifier=moments.means).nearest
        true = np.asarray(held_out.label, np.int64)
        found: dict[str, Any] = {name: METRICS[name](true, nearest) for name in ("accuracy", "balanced-accuracy")}
        return {"nearest_class_mean": {**found, "recall": recall(true, nearest)}}


def _embedded(torch: Any, model: Any, task: Classification, objective: Contrastive) -> tuple[F32, F32]:
    """The inputs of the head for each example, (sample, feature), and what is compared of them."""
    model.eval()
    rows: list[Any] = [None] * len(task.label)
    with torch.inference_mode(), objective.tap.on(model):
        for samples in by_length(task.lengths, size=_AT_ONCE):
            task.pair(torch, model, samples)
            for place, row in zip(samples.tolist(), objective.tap.taken().float().cpu(), strict=True):
                rows[place] = row
        found = torch.stack(rows)
        if not bool(torch.isfinite(found).all()):
            raise SettingError("metric", "the model's embeddings are not finite", fix="train at a lower rate")
        return found.numpy(), objective.compared(found).numpy()
