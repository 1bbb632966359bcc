"""Free features at a minimum: quasi-Newton steps to a gradient tolerance, a dual bound, and the error it allows."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, minres

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.gram import Comparison, Geometry
from deltagram.geometry.problem import Problem
from deltagram.training.freefeatures import FreeFeatures, Snapshot

_NEWTON = 30  # steps at most
_ROUNDING = 64 * float(np.finfo(np.float64).eps)  # of a sum of losses, relative


@dataclass(frozen=True, kw_only=True, eq=False)
class Stationary:
    """The end of a minimisation, in units of the loss summed over samples.

    `gradient` is the norm of the gradient. `gap` bounds how far the objective is above the least possible one, by the
    dual of `min_Z loss(Z) + ridge ||Z||_*`: the loss is at least `f(Z) + <f'(Z), . - Z>`, and its conjugate at zero is
    zero, so that the gradient scaled into the ball of spectral norm `ridge` is a feasible dual point.
    """

    snapshot: Snapshot
    ridge: float
    gradient: float
    gap: float


def minimise(free: FreeFeatures, *, tolerance: float = 1e-8) -> Stationary:
    """The minimum from the start that the seed draws, to a gradient norm of `tolerance` or to rounding.

    Every local minimum is a global one where dim is k or more (a nuclear norm, factored). Raises SettingError without
    decay on both: there is no minimum then.
    """
    model = _Summed(free)
    flat = np.concatenate([part.ravel() for part in free.begin()])
    options = {"maxiter": 20_000, "maxfun": 40_000, "maxcor": 30, "ftol": 1e-15, "gtol": tolerance / np.sqrt(flat.size)}
    at = np.asarray(minimize(model.value, flat, jac=True, method="L-BFGS-B", options=options).x, np.float64)
    gradient = model.value(at)[1]
    for _ in range(_NEWTON):
        if np.linalg.norm(gradient) <= tolerance:
            break
        step = minres(model.curvature(at), -gradient, rtol=1e-3, maxiter=2000)[0]
        there = model.value(at + step)[1]
        if not np.linalg.norm(there) < np.linalg.norm(gradient):
            break
        at, gradient = at + step, there
    return model.end(at, gradient)


class _Summed:
    """The objective times what its loss was divided by: a function of W and H in one row, with exact derivatives."""

    def __init__(self, free: FreeFeatures) -> None:
        import torch  # noqa: PLC0415 - an extra

        self.torch, self.free, self.ridge = torch, free, free.ridge
        self.decays = free.weight_decay * free.divided_by, free.feature_decay * free.divided_by
        self.label = torch.from_numpy(free.labels)
        self.classes = len(np.asarray(free.counts))

    def split(self, flat: F64) -> tuple[F64, F64]:
        """W and H."""
        at = self.classes * self.free.dim
        return flat[:at].reshape(-1, self.free.dim), flat[at:].reshape(-1, self.free.dim)

    def loss(self, flat: F64) -> tuple[float, F64]:
        """The sum of the losses, and its gradient in the logits (sample, class)."""
        w, h = self.split(flat)
        logits = self.torch.from_numpy(h @ w.T).requires_grad_()
        value = self.free.loss.summed(logits, self.label)
        (gradient,) = self.torch.autograd.grad(value, logits)
        return value.item(), np.asarray(gradient.numpy(), np.float64)

    def value(self, flat: F64) -> tuple[float, F64]:
        """The objective and its gradient."""
        (w, h), (by_w, by_h) = self.split(flat), self.decays
        loss, g = self.loss(flat)
        whole = loss + by_w / 2 * float(np.vdot(w, w)) + by_h / 2 * float(np.vdot(h, h))
        return whole, np.concatenate([(g.T @ h + by_w * w).ravel(), (g @ w + by_h * h).ravel()])

    def curvature(self, flat: F64) -> LinearOperator:
        """The Hessian there."""
        torch, dim, free = self.torch, self.free.dim, self.free
        at = torch.from_numpy(flat.copy()).requires_grad_()
        w, h = at[: self.classes * dim].view(-1, dim), at[self.classes * dim :].view(-1, dim)
        by_w, by_h = self.decays
        whole = free.loss.summed(h @ w.T, self.label) + by_w / 2 * w.square().sum() + by_h / 2 * h.square().sum()
        (gradient,) = torch.autograd.grad(whole, at, create_graph=True)

        def times(step: F64) -> F64:
            (found,) = torch.autograd.grad(gradient, at, torch.from_numpy(step.ravel().copy()), retain_graph=True)
            return np.asarray(found.numpy(), np.float64)

        return LinearOperator((flat.size, flat.size), matvec=times, dtype=np.float64)

    def end(self, flat: F64, gradient: F64) -> Stationary:
        """What was reached, with its dual bound."""
        w, h = self.split(flat)
        loss, g = self.loss(flat)
        primal = self.value(flat)[0]
        feasible = min(1.0, self.ridge / max(float(np.linalg.norm(g, 2)), 1e-300))
        dual = feasible * (loss - float(np.vdot(g, h @ w.T)))
        divided = self.free.divided_by
        return Stationary(
            snapshot=Snapshot.of(self.free, w, h, epoch=0, objective=primal / divided),
            ridge=self.ridge, gradient=float(np.linalg.norm(gradient)),
            gap=max(primal - dual, _ROUNDING * abs(primal)),
        )  # fmt: skip


def allowed(problem: Problem, predicted: Geometry, ridge: float, gap: float) -> Comparison:
    """How far the normalised Grams of a point may be from `predicted`, the minimum, given its duality gap.

    With mu the least curvature of the loss in centred logits, `||Z - Z*||^2 <= 2 gap / mu`. The Gram of classifiers is
    `(Z Z^T)^(1/2)` at the minimum, and the root of a square moves by at most sqrt 2 of what Z moves (Araki and
    Yamagami 1981); off the minimum `1/2 ||W||^2 + 1/2 ||H||^2 - ||Z||_* <= gap / ridge` leaves it, to second order,
    another `sqrt(2 s gap / ridge)`, s its largest eigenvalue. Normalising costs a factor of 2 over the Gram's norm.

    Raises SettingError for a prediction without classifiers, and for one that is zero.
    """
    if predicted.classifiers is None or predicted.logits is None:
        raise SettingError(predicted.name, "has no classifiers", expected="a prediction of cross-entropy")
    if not predicted.classifiers.norm():
        raise SettingError(
            predicted.name, "is zero, and so has no shape", expected="a ridge below that", fix="lower it"
        )
    logits = predicted.logits.dense()
    moved = np.sqrt(2 * gap / _least_curvature(problem, logits))
    largest = float(np.linalg.norm(predicted.classifiers.dense(), 2))
    gram = np.sqrt(2.0) * moved + np.sqrt(2 * largest * gap / ridge)
    least = float(np.sqrt(problem.counts.min()))
    return Comparison(
        classifiers=float(2 * gram / predicted.classifiers.norm()),
        means=float(2 * gram / least**2 / predicted.means.norm()),
        logits=float(2 * moved / least / predicted.logits.norm()),
    )  # fmt: skip


def _least_curvature(problem: Problem, logits: F64) -> float:
    """The least eigenvalue but one (the direction that shifts all logits) of the Hessian of a sample's loss."""
    least = np.inf
    for y in range(problem.classes):
        s = problem.label_scale[y] * problem.class_scale * logits[:, y] + problem.offset
        p = np.exp(s - s.max())
        p /= p.sum()
        scale = problem.label_scale[y] * problem.class_scale
        hessian = problem.weight[y] * scale[:, None] * (np.diag(p) - np.outer(p, p)) * scale
        least = min(least, float(np.linalg.eigvalsh(hessian)[1]))
    return least
