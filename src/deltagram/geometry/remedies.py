"""What is known to help against each cause of a failing class, and what it may be expected to give."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from deltagram.geometry.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """`text` for a class of a problem; `repair` names the repair whose gain is to be expected, if one estimates it."""

    advice: Callable[[Problem, int], str]
    repair: str | None = None

    def text(self, problem: Problem, label: int) -> str:
        """What to do about this class."""
        return self.advice(problem, label)

    def effect(self, gains: Mapping[str, float]) -> str:
        """The gain in recall that was estimated, or that none can be."""
        if self.repair is None:
            return ""
        return f"{gains[self.repair]:+.3f} of its recall, estimated by cross-fitting on the samples given"


def _merged(problem: Problem, label: int) -> str:
    scale = problem.class_scale[label] * problem.label_scale[label]
    at = problem.weight[label] * scale * np.sqrt(problem.counts[label])
    return (
        f"train again with less weight decay, or with weights n^(-1/2): classes merge from a ridge of {at:.3g} on "
        "(weight class_scale label_scale sqrt(n)); CDT or LDT alone lower that threshold for rare classes"
    )


REMEDIES: Final[Mapping[str, Remedy]] = {
    "healthy": Remedy(advice=lambda *_: ""),
    "merged": Remedy(advice=_merged, repair="nearest mean"),
    "small norm": Remedy(
        advice=lambda *_: "train with LDT sqrt(n) and weights 1/n, or normalise the head's rows; the classes are apart",
        repair="norm",
    ),
    "misaligned": Remedy(
        advice=lambda *_: (
            "train the head again on these features (class-balanced batches), or CDT sqrt(n), which "
            "aligns classifiers with class means"
        ),
        repair="alignment",
    ),
    "spread": Remedy(
        advice=lambda *_: (
            "the features do not gather: train longer past zero error, or with a supervised contrastive "
            "loss, a last ReLU and binding examples; more samples of the class help"
        ),
    ),
    "prior bias": Remedy(
        advice=lambda *_: (
            "shift the logits after training, fitted on held-out data and never on training data; "
            "logit adjustment and weighted cross-entropy act early in training only"
        ),
        repair="shift",
    ),
    "unexplained": Remedy(
        advice=lambda *_: "no sign of geometry fits and no shift helps: look at the samples and their labels",
    ),
}
