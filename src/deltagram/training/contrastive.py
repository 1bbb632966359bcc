"""Training without a classifier: a contrastive loss of what goes into a model's head."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltagram.arrays import F32
from deltagram.errors import SettingError
from deltagram.training.batches import I64, by_length
from deltagram.training.embedding import Tap, activated
from deltagram.training.losses import Paired

_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Contrastive:
    """A loss of embeddings and classes, a whole step at once.

    The embeddings are the inputs of the head that the `tap` is on, through the `activation`; the head's answers are
    not used. What compares embeddings divides them by their norm.
    """

    module: Any
    activation: str
    tap: Tap
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

    def _embedded(self, torch: Any, model: Any, task: Paired, samples: I64) -> tuple[Any, Any]:
        _, target = task.pair(torch, model, samples)
        if self.seen is not None and torch.is_grad_enabled():
            self.seen(target)
        return activated(torch, self.activation)(self.tap.taken()), target


def embeddings(
    torch: Any, model: Any, task: Paired, *, tap: Tap, activation: str
) -> tuple[F32, F32]:  # fmt: skip
    """What the head sees of each example, (sample, feature), and the embeddings as they are compared, of norm 1."""
    model.eval()
    rows: list[Any] = [None] * len(task.lengths)
    with torch.inference_mode():
        for samples in by_length(task.lengths, size=_AT_ONCE):
            task.pair(torch, model, samples)
            for place, row in zip(samples.tolist(), tap.taken().float().cpu(), strict=True):
                rows[place] = row
        found = torch.stack(rows)
        compared = torch.nn.functional.normalize(activated(torch, activation)(found), dim=1)
    if not bool(torch.isfinite(found).all()):
        raise SettingError("metric", "the model's embeddings are not finite", fix="train at a lower rate")
    return found.numpy(), compared.numpy()
