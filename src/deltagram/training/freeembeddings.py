"""Free embeddings under the supervised contrastive loss: one unit vector a sample, nonnegative where a ReLU ends.

What a network that can move every embedding at will would learn (UFM and UFM+ of arXiv 2306.07960, section 2). A ReLU
of free vectors would not do: a coordinate that is negative in a class has no gradient and never comes back, so vectors
are projected onto what is not negative instead.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.data.imbalance import I64
from deltagram.errors import SettingError
from deltagram.geometry.gram import Geometry
from deltagram.geometry.lowerbounds import batch_bounds
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.problem import Problem
from deltagram.seeds import key

_STARTS: Final = 8  # of which the best is taken where the bound is not attained
_AT_BOUND: Final = 1e-9  # relative; what quasi-Newton steps in float64 surpass


@dataclass(frozen=True, kw_only=True, eq=False)
class FreeEmbeddings:
    """Unit vectors (sample, dim), of `features` "relu" (not negative) or "free", and the loss that moves them.

    The loss is `losses.SupervisedContrastive` summed over anchors and batches, with `prototypes` (class, dim) and their
    `copies`, if any. Entries begin uniform from 0 to 1, or normal, drawn by `seed`; all is float64. Raises SettingError
    for counts that are no positive whole numbers, and for what the loss refuses.
    """

    counts: ArrayLike
    dim: int
    temperature: float = 0.1
    features: Literal["relu", "free"] = "relu"
    prototypes: F64 | None = None
    copies: ArrayLike = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        Problem.of(self.counts)
        if self.dim < 1:
            raise SettingError("dim", f"is {self.dim}", expected="1 or more")
        if self.features not in ("relu", "free"):
            raise SettingError("features", repr(self.features), expected="relu or free")

    @property
    def labels(self) -> I64:
        """The class of each sample, (sample)."""
        counts = np.asarray(self.counts, np.int64)
        return np.repeat(np.arange(len(counts)), counts)

    def begin(self, start: int = 0) -> F64:
        """Vectors as they are drawn; `start` is another draw."""
        number = key(self.seed, "free embeddings" if not start else f"free embeddings, start {start}")
        drawn, size = np.random.Generator(np.random.Philox(key=number)), (len(self.labels), self.dim)
        return unit(drawn.uniform(size=size) if self.features == "relu" else drawn.standard_normal(size))

    def module(self) -> Any:
        """The loss, summed over anchors. Raises ExtraError without torch."""
        import torch  # noqa: PLC0415 - an extra

        from deltagram.losses import SupervisedContrastive  # noqa: PLC0415 - imports torch

        given: dict[str, Any] = {"temperature": self.temperature, "reduction": "sum"}
        if self.prototypes is not None:
            given |= {"prototypes": torch.from_numpy(self.prototypes), "copies": np.asarray(self.copies).tolist()}
        return SupervisedContrastive(**given)

    def bound(self, batches: Sequence[ArrayLike]) -> float:
        """The least that the loss of these batches can be over vectors that are not negative."""
        label, classes = self.labels, len(np.asarray(self.counts))
        held = np.stack([np.bincount(label[np.asarray(batch)], minlength=classes) for batch in batches])
        copies = None if self.prototypes is None else self.copies
        return float(batch_bounds(held, temperature=self.temperature, copies=copies).sum())


def unit(vectors: F64) -> F64:
    """Rows of norm 1."""
    found: F64 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """Where free embeddings are: vectors (sample, dim), the loss of the batches and, with a ReLU, its lower bound.

    `starts` were needed to come there.
    """

    vectors: F64
    moments: ClassMoments
    loss: float
    bound: float | None
    starts: int = 1

    @classmethod
    def of(cls, free: FreeEmbeddings, vectors: F64, *, loss: float, bound: float | None) -> "Embedded":
        """Of vectors as they are."""
        moments = ClassMoments.of(vectors, free.labels, classes=len(np.asarray(free.counts)))
        return cls(vectors=vectors, moments=moments, loss=loss, bound=bound)

    def geometry(self) -> Geometry:
        """Of class means that are not centred."""
        return self.moments.geometry(centring="none", name="free embeddings")

    @property
    def gap(self) -> float:
        """How far the loss is above its bound, relative to that; NaN where there is none."""
        return float("nan") if self.bound is None else (self.loss - self.bound) / max(1.0, abs(self.bound))

    @property
    def spread(self) -> float:
        """Mean squared distance of an embedding from its class mean."""
        return float(self.moments.traces.sum() / self.moments.counts.sum())


def minimise(free: FreeEmbeddings, batches: Sequence[ArrayLike] | None = None) -> Embedded:
    """The minimum of the loss summed over `batches` (one of all samples) from the start that the seed draws.

    Quasi-Newton steps that keep what must not be negative from it. Where they end above the lower bound, other starts
    follow: classes that share a coordinate, while others hold all the rest, are a local minimum. The best is returned.
    """
    chosen = [np.arange(len(free.labels))] if batches is None else [np.asarray(batch) for batch in batches]
    found = _quasi_newton(free, chosen, free.begin())
    for start in range(1, _STARTS):
        if found.bound is None or found.gap <= _AT_BOUND:
            break
        again = _quasi_newton(free, chosen, free.begin(start))
        found = replace(again if again.loss < found.loss else found, starts=start + 1)
    return found


def _quasi_newton(free: FreeEmbeddings, batches: Sequence[I64], start: F64) -> Embedded:
    import torch  # noqa: PLC0415 - an extra
    from scipy.optimize import minimize as minimize_  # noqa: PLC0415 - slow to import

    module, label = free.module(), torch.from_numpy(free.labels)
    places = [torch.from_numpy(batch) for batch in batches]

    def value(flat: F64) -> tuple[float, F64]:
        vectors = torch.from_numpy(flat.reshape(-1, free.dim)).requires_grad_()
        loss = sum(module(vectors[place], label[place]) for place in places)
        (gradient,) = torch.autograd.grad(loss, vectors)
        return float(loss.detach()), np.asarray(gradient.numpy(), np.float64).ravel()

    limits = [(0.0, None)] * start.size if free.features == "relu" else None
    options = {"maxiter": 5000, "maxfun": 10_000, "maxcor": 30, "ftol": 1e-16, "gtol": 1e-10}
    end = minimize_(value, start.ravel(), jac=True, method="L-BFGS-B", bounds=limits, options=options)
    bound = free.bound(batches) if free.features == "relu" else None
    return Embedded.of(free, unit(end.x.reshape(-1, free.dim)), loss=float(end.fun), bound=bound)


@dataclass(frozen=True, kw_only=True)
class Passed:
    """After an epoch: its number, samples that went through the loss so far, and the embeddings."""

    epoch: int
    samples: int
    embedded: Embedded


def descend(free: FreeEmbeddings, sampler: Any, *, rate: float, epochs: int, every: int = 1) -> Iterable[Passed]:
    """Gradient steps on one batch of `sampler` after another, projected; what there is after each `every` epochs.

    The loss is that of the epoch's batches as they were met. Stops where whoever asks does.
    """
    import torch  # noqa: PLC0415 - an extra

    module, label = free.module(), torch.from_numpy(free.labels)
    at, samples = torch.from_numpy(free.begin()), 0
    for epoch in range(epochs):
        total = 0.0
        for batch in _epoch(sampler, epoch):
            place = torch.from_numpy(np.asarray(batch, np.int64))
            part = at[place].requires_grad_()
            loss = module(part, label[place])
            (gradient,) = torch.autograd.grad(loss, part)
            moved = part.detach() - rate * gradient
            moved = moved.clamp_min(0.0) if free.features == "relu" else moved
            at[place] = moved / torch.linalg.vector_norm(moved, dim=1, keepdim=True)
            total, samples = total + float(loss.detach()), samples + len(place)
        if (epoch + 1) % every == 0:
            vectors = at.numpy().copy()
            yield Passed(
                epoch=epoch + 1, samples=samples, embedded=Embedded.of(free, vectors, loss=total, bound=None)
            )  # fmt: skip


def _epoch(sampler: Any, epoch: int) -> list[Any]:
    sampler.set_epoch(epoch)
    return list(sampler)
