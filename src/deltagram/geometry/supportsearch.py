"""The search for the logits of next tokens at a ridge: quasi-Newton and Newton steps in factors, saddles left behind.

What it minimises, and what shows that it did, is in `supportridge`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, minres

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.geometry.supportprogram import largest
from deltagram.seeds import key

_RANK = 1e-6  # of the largest singular value: a dimension with less is free
_SADDLE = 1e-8  # above 1, of the norm of G
_ESCAPES = 12  # saddles that are left at most
_STEP = 1e-3  # of the largest singular value: how far along the way out
_NEWTON = 40  # steps at most
_STEPS = 4000  # of quasi-Newton
_ROUGH = 200  # of them at a ridge on the way
_KRYLOV = 2000  # products with the Hessian a step, at most
_INEXACT = 1e-6  # residual of a Newton step: small singular values are decided by curvatures far below the largest
_SHARES = 0.5 ** np.arange(6)  # of a step that are tried
_ROUNDING = 1e-15  # of the terms of the objective: more than that is a rise


def softmax(logits: F64) -> F64:
    """Probabilities of logits (word, context), a column each."""
    e = np.exp(logits - logits.max(0))
    found: F64 = e / e.sum(0)
    return found


def entropy_slope(labels: LabelMatrix, logits: F64) -> tuple[float, F64]:
    """Cross-entropy and its gradient (word, context)."""
    top = logits.max(0)
    e = np.exp(logits - top)
    total = e.sum(0)
    p = labels.probabilities
    at = p.indices, np.repeat(np.arange(p.shape[1]), np.diff(p.indptr))
    value = labels.weights @ (np.log(total) + top) - (p.data * labels.weights[at[1]]) @ logits[at]
    slope = e / total
    slope[at] -= p.data
    return float(value), slope * labels.weights


@dataclass(frozen=True, kw_only=True, eq=False)
class RidgeSearch:
    """The objective over the ridge in W (word, rank) and H (rank, context), flat."""

    labels: LabelMatrix
    ridge: float
    rank: int

    def flat(self, w: F64, h: F64) -> F64:
        """W and H in one."""
        return np.concatenate([w.ravel(), h.ravel()])

    def split(self, flat: F64) -> tuple[F64, F64]:
        """W and H."""
        words, contexts = self.labels.shape
        at = words * self.rank
        return flat[:at].reshape(words, self.rank), flat[at:].reshape(self.rank, contexts)

    def nothing(self) -> tuple[F64, F64]:
        """Zero: a saddle below `zero_from`."""
        words, contexts = self.labels.shape
        return np.zeros((words, self.rank)), np.zeros((self.rank, contexts))

    def drawn(self, seed: int) -> tuple[F64, F64]:
        """Standard normal embeddings of about the size of those at this ridge."""
        made = np.random.Generator(np.random.Philox(key=key(seed, "token ridge")))
        words, contexts = self.labels.shape
        scale = 1 / np.sqrt(self.rank)
        return scale * made.standard_normal((words, self.rank)), scale * made.standard_normal((self.rank, contexts))

    def value(self, flat: F64) -> tuple[float, F64]:
        """Objective less the entropy, over the ridge, and its gradient."""
        w, h = self.split(flat)
        value, slope = entropy_slope(self.labels, w @ h)
        size = float(flat @ flat) / 2
        grad = self.flat(slope @ h.T / self.ridge + w, w.T @ slope / self.ridge + h)
        return (value - self.labels.entropy) / self.ridge + size, grad

    def objective(self, pair: tuple[F64, F64]) -> float:
        """As `value`, of W and H."""
        return self.value(self.flat(*pair))[0]

    def curvature(self, flat: F64) -> LinearOperator:
        """The Hessian there."""
        w, h = self.split(flat)
        logits = w @ h
        slope = entropy_slope(self.labels, logits)[1] / self.ridge
        p, by = softmax(logits), self.labels.weights / self.ridge

        def times(step: F64) -> F64:
            dw, dh = self.split(step.ravel())
            z = dw @ h + w @ dh
            moved = by * p * (z - (p * z).sum(0))
            return self.flat(moved @ h.T + slope @ dh.T + dw, w.T @ moved + dw.T @ slope + dh)

        return LinearOperator((flat.size, flat.size), matvec=times, dtype=np.float64)

    def best(self, start: tuple[F64, F64] | None) -> tuple[F64, F64]:
        """The minimum from there, with saddles left behind."""
        at = start or self.nothing()
        for _ in range(_ESCAPES):
            at = self.minimum(self.left(*at))
            w, h = self.balanced(*at)
            if largest(entropy_slope(self.labels, w @ h)[1]) / self.ridge <= 1 + _SADDLE or self.full(w):
                break
        return at

    def balanced(self, w: F64, h: F64) -> tuple[F64, F64]:
        """The same logits, by their singular vectors."""
        (q, r), (p, t) = np.linalg.qr(w), np.linalg.qr(h.T)
        u, s, v = np.linalg.svd(r @ t.T)
        return (q @ u) * np.sqrt(s), (p @ v.T).T * np.sqrt(s)[:, None]

    def full(self, w: F64) -> bool:
        """Whether no dimension is free."""
        sizes = (w * w).sum(0)
        return bool(sizes.min() > _RANK * sizes.max())

    def left(self, w: F64, h: F64) -> tuple[F64, F64]:
        """A step from there along the largest singular vectors of G, in the dimensions that are free."""
        w, h = self.balanced(w, h)
        u, s, v = np.linalg.svd(-entropy_slope(self.labels, w @ h)[1] / self.ridge, full_matrices=False)
        sizes = (w * w).sum(0)
        free = np.flatnonzero(sizes <= _RANK * max(sizes.max(), 1e-300))
        ways = min(len(free), int((s > 1).sum()))
        step = np.sqrt(_STEP * max(float(sizes.max()), 1.0))
        w[:, free[:ways]], h[free[:ways]] = step * u[:, :ways], step * v[:ways]
        return w, h

    def minimum(self, start: tuple[F64, F64], *, rough: bool = False) -> tuple[F64, F64]:
        """Quasi-Newton to the neighbourhood, then Newton steps as long as the gradient falls; not if `rough`."""
        steps = _ROUGH if rough else _STEPS
        options = {"maxiter": steps, "maxcor": 20, "ftol": 1e-16, "gtol": 1e-8, "maxfun": 2 * steps}
        flat = self.flat(*start)
        at = np.asarray(minimize(self.value, flat, jac=True, method="L-BFGS-B", options=options).x, np.float64)
        value, gradient = self.value(at)
        rounding = _ROUNDING * (abs(value) + (1 + self.labels.entropy) / self.ridge)
        for _ in range(0 if rough else _NEWTON):
            step = minres(self.curvature(at), -gradient, rtol=_INEXACT, maxiter=_KRYLOV)[0]
            for share in _SHARES:
                lower, there = self.value(at + share * step)
                falls = np.linalg.norm(there) < (1 - share / 4) * np.linalg.norm(gradient)
                if falls and lower <= value + rounding:  # a gradient also falls towards a saddle
                    break
            else:
                break
            at, value, gradient = at + share * step, lower, there
        return self.split(at)
