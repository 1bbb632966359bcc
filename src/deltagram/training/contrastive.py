"""Training without a classifier: a contrastive loss of what goes into a model's head."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltagram.arrays import F64
from deltagram.data.audit import BatchAudit, audit_batches
from deltagram.errors import SettingError
from deltagram.geometry.contrastive import Features, supervised_contrastive
from deltagram.geometry.designnames import named_prototypes
from deltagram.geometry.gram import Geometry
from deltagram.geometry.headmatch import head_mismatch
from deltagram.geometry.matrix import Matrix
from deltagram.training.batches import I64
from deltagram.training.embedding import Tap, activated
from deltagram.training.losses import BALANCED, Loss, Paired


@dataclass(frozen=True, kw_only=True, eq=False)
class Contrastive:
    """A loss of embeddings and classes, a whole step at once.

    The embeddings are the inputs of the head that the `tap` is on, through the `activation`; the head's answers are
    not used. What compares embeddings divides them by their norm.
    """

    module: Any
    activation: str
    tap: Tap
    target: Geometry | None  # what class means tend to; None where there is none in so few dimensions
    attained: bool  # whether an orthogonal frame attains a lower bound of the loss
    seen: Callable[[Any], None] | None = None  # is told the targets of each part

    def losses(
        self, torch: Any, accelerator: Any, model: Any, task: Paired, samples: I64, *, parts: int
    ) -> Iterator[Any]:
        """The loss of a step's examples. In parts it is differentiated here, by the embeddings of all parts."""
        if parts == 1:
            yield self.module(*self._embedded(torch, model, task, samples))
            return
        from deltagram.losses import cached_backward  # noqa: PLC0415 - imports torch
        from deltagram.training.encoder import Encoder  # noqa: PLC0415

        encoder = Encoder(model, lambda part: self._embedded(torch, model, task, part)[0])
        held = np.array_split(samples, min(parts, len(samples)))
        target = torch.from_numpy(task.targets(samples)).to(accelerator.device)
        value = cached_backward(self.module, encoder, held, target, scaler=accelerator.scaler)
        yield value.requires_grad_()  # a leaf: whoever asks for its gradient adds nothing

    def audit(self, batches: Sequence[I64], label: Sequence[int], *, classes: int, dim: int) -> BatchAudit:
        """Whether a training's batches leave it one minimiser, or let classes fall apart."""
        return audit_batches(
            batches, label, classes=classes, dim=dim, features="free" if self.activation == "none" else "relu",
            prototypes=self.module.prototypes is not None and self.attained,
        )  # fmt: skip

    def compared(self, features: Any) -> Any:
        """What the loss compares of the head's inputs: of norm 1, behind the activation; in float32."""
        import torch  # noqa: PLC0415 - whoever has features has it loaded

        return torch.nn.functional.normalize(activated(torch, self.activation)(features), dim=-1)

    def _embedded(self, torch: Any, model: Any, task: Paired, samples: I64) -> tuple[Any, Any]:
        _, target = task.pair(torch, model, samples)
        if self.seen is not None:
            self.seen(target)
        return activated(torch, self.activation)(self.tap.taken()), target


def contrastive(loss: Loss, counts: I64, *, dim: int) -> Contrastive:
    """The loss of embeddings of `dim` dimensions for classes with so many training samples, (class).

    Raises SettingError for prototypes that embeddings behind the activation cannot take the geometry of, and for what
    designs and the loss refuse.
    """
    from deltagram.losses import SupervisedContrastive  # noqa: PLC0415 - imports torch

    temperature = SupervisedContrastive().temperature if loss.temperature is None else loss.temperature
    settings: dict[str, Any] = {"temperature": temperature}
    activation, target, mismatch = loss.of_features, None, None
    features: Features = "free" if activation == "none" else "relu"
    there = np.flatnonzero(counts)
    if loss.name == "scl-prototypes":
        vectors, copies, mismatch = _prototypes(loss, counts, dim=dim, temperature=temperature)
        settings |= {"prototypes": vectors.astype(np.float32), "copies": copies}
        if mismatch and not loss.allow_mismatch:
            raise SettingError("design", mismatch, fix="--allow-mismatch trains with it anyway")
        target = Geometry(
            name="prototypes", means=Matrix.of_vectors(vectors[there]), counts=counts[there].astype(np.float64)
        )
    elif dim >= len(there) and counts.max() > 1:
        target = supervised_contrastive(counts[there], temperature=temperature, features=features)
    weight: Any = loss.class_weight
    if weight is not None and weight != BALANCED:
        weight = list(weight)
    if weight == BALANCED:
        settings["class_counts"] = counts if loss.class_counts is None else np.asarray(loss.class_counts)
    module = SupervisedContrastive(class_weight=weight, **settings)
    attained = features == "relu" and target is not None and mismatch is None
    return Contrastive(module=module, activation=activation, tap=Tap(), target=target, attained=attained)


def _prototypes(loss: Loss, counts: I64, *, dim: int, temperature: float) -> tuple[F64, F64, str | None]:
    """Vectors (class, feature), copies (class), and why they do not go with the activation, if they do not."""
    design = loss.design or ("etf" if loss.of_features == "none" else "of")
    copies = loss.copies if loss.copies is None or len(loss.copies) > 1 else loss.copies[0]
    vectors, many, _ = named_prototypes(counts.astype(np.float64), design, copies, dim=dim, temperature=temperature)
    return vectors, many, head_mismatch(design.partition(":")[0], loss.of_features)
