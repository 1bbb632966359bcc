"""The unconstrained-features model: classifiers and one free feature vector a sample, trained by first-order methods.

Section 2 of arXiv 2208.05512: what a network that can move every feature at will would learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.gram import Geometry
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.problem import Problem
from deltagram.geometry.ridge import ridge_of
from deltagram.seeds import key

I64 = NDArray[np.int64]

OPTIMIZERS: Final = ("sgd", "adam")
_LEAST_LOSS: Final = 1e-12  # below, what float64 leaves of 1 - p is noise


@dataclass(frozen=True, kw_only=True, eq=False)
class FreeFeatures:
    """W (class, dim) and H (sample, dim), free, under a loss of `deltagram.losses` and decay on both.

    The objective is `loss(H W^T) + weight_decay / 2 ||W||^2 + feature_decay / 2 ||H||^2`, the loss summed over samples
    or, with "mean", divided by the sum of their weights as torch does. Entries of W and H begin normal, of deviation
    `scale / sqrt(dim)`, drawn by `seed`; all is float64. Raises SettingError for counts that are no positive whole
    numbers, fewer than one dimension, negative decay, and a loss of label smoothing, which the theory does not cover.
    """

    loss: Any
    counts: ArrayLike
    dim: int
    weight_decay: float = 0.0
    feature_decay: float = 0.0
    reduction: Literal["mean", "sum"] = "mean"
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        Problem.of(self.counts)
        if self.dim < 1:
            raise SettingError("dim", f"is {self.dim}", expected="1 or more")
        if not min(self.weight_decay, self.feature_decay) >= 0:
            found = f"are {self.weight_decay} and {self.feature_decay}"
            raise SettingError("weight_decay and feature_decay", found, expected="0 or more")
        if self.reduction not in ("mean", "sum"):
            raise SettingError("reduction", f"{self.reduction!r} is unknown", expected="mean or sum")
        if self.loss.label_smoothing:
            raise SettingError("loss", "smooths labels", expected="one label a sample", fix="leave label_smoothing out")

    @property
    def problem(self) -> Problem:
        """The loss as the predictions of `deltagram.geometry` take it."""
        parts = {name: getattr(self.loss, name) for name in ("class_scale", "label_scale", "offset", "weight")}
        given = {name: None if part is None else part.double().cpu().numpy() for name, part in parts.items()}
        return Problem.of(self.counts, **given)

    @property
    def ridge(self) -> float:
        """The ridge of `geometry.path` that these decays make. Raises SettingError where one of them is zero."""
        return ridge_of(
            self.problem, weight_decay=self.weight_decay, feature_decay=self.feature_decay, reduction=self.reduction
        )

    @property
    def labels(self) -> I64:
        """The class of each sample, (sample)."""
        counts = np.asarray(self.counts, np.int64)
        return np.repeat(np.arange(len(counts)), counts)

    @property
    def divided_by(self) -> float:
        """What the sum of the losses is divided by."""
        problem = self.problem
        return float(problem.counts @ problem.weight) if self.reduction == "mean" else 1.0

    def begin(self) -> tuple[F64, F64]:
        """W and H as they are drawn."""
        drawn = np.random.Generator(np.random.Philox(key=key(self.seed, "free features")))
        sizes = (len(np.asarray(self.counts)), len(self.labels))
        w, h = (drawn.standard_normal((size, self.dim)) * (self.scale / np.sqrt(self.dim)) for size in sizes)
        return w, h


@dataclass(frozen=True, kw_only=True)
class Method:
    """A first-order method: "sgd" (gradient descent, where a step sees all samples) or "adam", at a constant rate.

    `batch_size` samples a step, drawn anew each epoch; None is all of them. Decay is part of the gradient, also Adam's.
    `normalised` divides each step by its loss, down to `_LEAST_LOSS`: margins then grow with the epoch, not with its
    logarithm (Nacson et al., AISTATS 2019). Raises SettingError for settings outside their range, and for steps of Adam
    that are normalised, which they are already.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float
    momentum: float = 0.0
    batch_size: int | None = None
    normalised: bool = False

    def __post_init__(self) -> None:
        if self.normalised and self.optimizer != "sgd":
            raise SettingError("normalised", f"with {self.optimizer}", expected="sgd")
        if self.optimizer not in OPTIMIZERS:
            raise SettingError("optimizer", f"{self.optimizer!r} is unknown", expected=" or ".join(OPTIMIZERS))
        if not 0 < self.learning_rate < float("inf"):
            raise SettingError("learning_rate", f"is {self.learning_rate}", expected="a positive number")
        if self.batch_size is not None and self.batch_size < 1:
            raise SettingError("batch_size", f"is {self.batch_size}", expected="1 or more, or None for all samples")

    def made(self, torch: Any, w: Any, h: Any, free: FreeFeatures) -> Any:
        """Torch's optimiser of W and H."""
        groups = [
            {"params": [w], "weight_decay": free.weight_decay}, {"params": [h], "weight_decay": free.feature_decay}
        ]  # fmt: skip
        if self.optimizer == "adam":
            return torch.optim.Adam(groups, lr=self.learning_rate, foreach=False)
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, foreach=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """Where a training was after so many epochs: the objective, the classifiers (class, dim), the classes' moments."""

    epoch: int
    objective: float
    classifiers: F64
    moments: ClassMoments

    @classmethod
    def of(cls, free: FreeFeatures, w: F64, h: F64, *, epoch: int, objective: float) -> "Snapshot":
        """Of W and H as they are."""
        moments = ClassMoments.of(h, free.labels, classes=len(w), scatter="trace")
        return cls(epoch=epoch, objective=objective, classifiers=w.copy(), moments=moments)

    def geometry(self, centring: Any = "none") -> Geometry:
        """W, class means and logits; `centring` as `geometry.conventions`: none where features decay to their place."""
        return self.moments.geometry(self.classifiers, centring=centring, name=f"free features, epoch {self.epoch}")

    @property
    def spread(self) -> float:
        """Mean squared distance of a feature from its class mean, over the mean squared norm of class means."""
        norms = np.einsum("cd,cd->c", self.moments.means, self.moments.means)
        return float(self.moments.traces.sum() / self.moments.counts.sum() / norms.mean())


def log_spaced(epochs: int, points: int) -> tuple[int, ...]:
    """Epochs from 1 to `epochs`, evenly on a logarithmic scale, each once.

    >>> log_spaced(1000, 4)
    (1, 10, 100, 1000)
    """
    return tuple(sorted({round(float(at)) for at in np.geomspace(1, epochs, points)}))


def descend(free: FreeFeatures, method: Method, *, at: Sequence[int]) -> tuple[Snapshot, ...]:
    """Train from the start that the seed draws to the last of the epochs `at`; a snapshot after each of them.

    Raises SettingError for epochs that do not rise from 1 or more, and where the objective is not finite any more.
    """
    import torch  # noqa: PLC0415 - an extra

    if not len(at) or list(at) != sorted(set(at)) or at[0] < 1:
        raise SettingError("at", f"are {list(at)}", expected="epochs that rise, from 1")
    w, h = (torch.tensor(part, requires_grad=True) for part in free.begin())
    label, size = torch.from_numpy(free.labels), len(free.labels)
    order = torch.Generator().manual_seed(key(free.seed, "order of samples") >> 1)
    optimizer, batch = method.made(torch, w, h, free), min(method.batch_size or size, size)
    loss, whole = free.loss, free.divided_by
    found = []
    for epoch in range(1, at[-1] + 1):
        drawn = None if batch == size else torch.randperm(size, generator=order)
        for start in range(0, size, batch):
            optimizer.zero_grad()
            if drawn is None:
                step = loss.summed(h @ w.T, label) / whole
            else:
                some = drawn[start : start + batch]
                step = loss.summed(h[some] @ w.T, label[some]) * (size / (len(some) * whole))
            step.backward()
            if method.normalised:
                for group in optimizer.param_groups:
                    group["lr"] = method.learning_rate / max(step.item(), _LEAST_LOSS)
            optimizer.step()
        if epoch in at:
            found.append(_snapshot(torch, free, w, h, epoch))
    return tuple(found)


def _snapshot(torch: Any, free: FreeFeatures, w: Any, h: Any, epoch: int) -> Snapshot:
    with torch.no_grad():
        value = float(free.loss.summed(h @ w.T, torch.from_numpy(free.labels))) / free.divided_by
        value += float(free.weight_decay * w.square().sum() + free.feature_decay * h.square().sum()) / 2
    if not np.isfinite(value):
        found = f"makes the objective {value} within {epoch} epochs"
        raise SettingError("learning_rate", found, expected="a finite objective", fix="take a lower one")
    return Snapshot.of(free, w.detach().numpy(), h.detach().numpy(), epoch=epoch, objective=value)
