"""Next-token cross-entropy of free embeddings at a ridge: the logits, and what shows that they are the best.

`min_{W, H} CE(W H) + ridge / 2 (|W|^2 + |H|^2)`, W (word, dim), H (dim, context), is `min CE(L) + ridge ||L||_*` over L
of rank dim at most (arXiv 2408.15417); with min(V - 1, m) dimensions the rank asks for nothing, and the minimum is
certified. Its stationarity: with `G = (P - softmax(L)) diag(weights) / ridge`, `||G||_op <= 1` and `<G, L> = ||L||_*`.
More than 1 is a saddle, which is left along the singular vectors of G.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, minres

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.nexttoken import beyond_supports, in_support, within_supports
from deltagram.geometry.supportprogram import largest
from deltagram.geometry.supportsvm import MarginSolution
from deltagram.geometry.wordcontext import WordContext
from deltagram.seeds import key

_MOST = 1_000_000  # logits: beyond, it takes hours
_RANK = 1e-6  # of the largest singular value
_SADDLE = 1e-4  # above 1, of the norm of G
_ESCAPES = 12  # saddles that are left at most
_STEP = 1e-3  # of the largest singular value: how far along the way out
_NEWTON = 40
_STEPS = 4000  # of quasi-Newton
_ROUGH = 200  # of them at a ridge on the way
_KRYLOV = 400
_FALLS = 0.9
_ROUNDING = 1e-15


@dataclass(frozen=True, kw_only=True, eq=False)
class RidgeSolution:
    """Logits L (word, context) at a ridge, as W (word, dim) and H (dim, context), and what shows that they are optimal.

    `dual` bounds the least objective of any rank from below: without a bound on the rank it is `primal` up to rounding.
    """

    labels: LabelMatrix
    ridge: float
    words: F64
    contexts: F64
    primal: float
    dual: float

    @property
    def gap(self) -> float:
        """Primal less dual value, relative to what the objective is above the entropy, which nothing goes below."""
        return (self.primal - self.dual) / max(self.primal - self.labels.entropy, 1e-300)

    @cached_property
    def logits(self) -> F64:
        """L, columns of mean zero."""
        whole = self.words @ self.contexts
        found: F64 = whole - whole.mean(0)
        return found

    @cached_property
    def slope(self) -> F64:
        """G (word, context)."""
        found: F64 = -_gradient(self.labels, self.logits)[1] / self.ridge
        return found

    @cached_property
    def slope_norm(self) -> float:
        """`||G||_op`: 1 at the minimum (less where all is zero), more at a saddle."""
        return largest(self.slope)

    @cached_property
    def sizes(self) -> F64:
        """Singular values of L, falling."""
        found: F64 = np.asarray(np.linalg.svd(self.logits, compute_uv=False), np.float64)
        return found

    @property
    def balance(self) -> float:
        """`<G, L> / ||L||_*`: 1 at a stationary point; NaN where all is zero."""
        norm = float(self.sizes.sum())
        return float((self.slope * self.logits).sum() / norm) if norm else float("nan")

    @property
    def rank(self) -> int:
        """Dimensions in use."""
        return int((self.sizes > _RANK * max(self.sizes[0], 1e-300)).sum())

    @property
    def excess(self) -> float:
        """Cross-entropy less its lower bound, `CE - H`: tends to `ridge ||L_mm||_*`."""
        return float(_gradient(self.labels, self.logits)[0] - self.labels.entropy)

    @cached_property
    def outside(self) -> F64:
        """Probability of words off the support, (context)."""
        found: F64 = np.where(self.labels.support.toarray() > 0, 0.0, _softmax(self.logits)).sum(0)
        return found

    @property
    def on(self) -> NDArray[np.bool_]:
        """Contexts that are switched on, (context): off the support half of what no logits leave there, or less."""
        none = 1 - self.labels.sizes / self.labels.shape[0]
        found: NDArray[np.bool_] = self.outside <= none / 2
        return found

    def geometry(self) -> WordContext:
        """Words and contexts, balanced."""
        u, s, v = np.linalg.svd(self.logits, full_matrices=False)
        kept = s > _RANK * max(s[0], 1e-300)
        return WordContext.of_factors(
            (u[:, kept], s[kept], v[kept].T), name=f"next tokens, ridge {self.ridge:g}", word_names=self.labels.words,
            context_names=self.labels.contexts,
            conventions={"ridge": f"{self.ridge:g}", "words": "centred"} | ({} if kept.any() else {"all": "zero"}),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Law:
    """A solution at a ridge beside the limit: what the limit says of it, and what it is.

    `excess_ratio` is `(CE - H) / (ridge ||L_mm||_*)`, to 1; `radius` the size of L beyond supports in sizes of L_mm, as
    `log(1 / ridge)`; `cosine` of that part with L_mm; `log_odds_error` of the part within supports, to 0.
    """

    excess_ratio: float
    radius: float
    log_ridge: float
    cosine: float
    log_odds_error: float


def law(found: RidgeSolution, limit: MarginSolution) -> Law:
    """How far the solution at a ridge has come towards the limit of the same labels."""
    rest = beyond_supports(found.labels, found.logits)
    rest = rest - rest.mean(0)
    wanted = limit.logits
    sizes = np.linalg.norm(rest), np.linalg.norm(wanted)
    off = within_supports(found.labels, found.logits) - in_support(found.labels)
    return Law(
        excess_ratio=found.excess / (found.ridge * limit.primal), radius=float(sizes[0] / sizes[1]),
        log_ridge=float(np.log(1 / found.ridge)),
        cosine=float((rest * wanted).sum() / (sizes[0] * sizes[1])) if sizes[0] else float("nan"),
        log_odds_error=float(np.linalg.norm(off.data)),
    )  # fmt: skip


def zero_from(labels: LabelMatrix) -> float:
    """The least ridge at which everything is zero: the norm of `(I - 1 1^T / V) P diag(weights)`."""
    p = labels.probabilities.toarray()
    return largest((p - p.mean(0)) * labels.weights)


def ridge_solution(
    labels: LabelMatrix, ridge: float, *, dim: int | None = None, starts: int = 3, seed: int = 0
) -> RidgeSolution:
    """The logits at this ridge, in `dim` dimensions if given: then the best of random starts and of one by ridges.

    Raises SettingError for a ridge that is not positive, `dim` below 1, and more than a million logits.
    """
    return ridge_path(labels, [ridge], dim=dim, starts=starts, seed=seed)[0]


def ridge_path(
    labels: LabelMatrix, ridges: Sequence[float], *, dim: int | None = None, starts: int = 3, seed: int = 0
) -> list[RidgeSolution]:
    """The logits at each of these ridges, from the largest down by tenths, each started from the one before."""
    words, contexts = labels.shape
    if words * contexts > _MOST:
        raise SettingError(
            "labels", f"{words:,} words x {contexts:,} contexts", expected=f"at most {_MOST:,} logits",
            fix="take the proxy of this ridge (predict --proxy --ridge --top 32)",
        )  # fmt: skip
    for ridge in ridges:
        if not (np.isfinite(ridge) and ridge > 0):
            raise SettingError("ridge", f"{ridge:g}", expected="a positive number; for the limit of zero, give none")
    if dim is not None and dim < 1:
        raise SettingError("dim", f"is {dim}", expected="1 or more")
    most = min(words - 1, contexts)
    rank = most if dim is None else min(dim, most)
    zero = zero_from(labels)
    found: dict[float, RidgeSolution] = {}
    at: tuple[F64, F64] | None = None
    for ridge in _falling(ridges, zero):
        search = _Search(labels=labels, ridge=ridge, rank=rank)
        if ridge not in ridges:
            at = search.minimum(search.left(*(at or search.nothing())), rough=True)
            continue
        tried = [search.best(at) if ridge < zero else search.nothing()]
        if rank < most and ridge < zero:
            tried += [search.best(search.drawn(seed + start)) for start in range(starts)]
        at = min(tried, key=search.objective)
        found[ridge] = search.described(*at)
    solved = [found[ridge] for ridge in ridges]
    return solved if rank == most else [_bounded(each) for each in solved]


def _bounded(found: RidgeSolution) -> RidgeSolution:
    """With the bound of the problem of any rank, which is the tighter one."""
    free = ridge_solution(found.labels, found.ridge)
    return replace(found, dual=max(found.dual, free.dual))


def _falling(ridges: Sequence[float], zero: float) -> list[float]:
    """The ridges, with tenths between them from the one where all is zero, from the largest down."""
    least = min(ridges)
    steps = [zero / 2 * 10.0**-step for step in range(40)]
    return sorted({*ridges, *(step for step in steps if step > 2 * least)}, reverse=True)


def _softmax(logits: F64) -> F64:
    e = np.exp(logits - logits.max(0))
    found: F64 = e / e.sum(0)
    return found


def _gradient(labels: LabelMatrix, logits: F64) -> tuple[float, F64]:
    """Cross-entropy and its gradient (word, context)."""
    top = logits.max(0)
    e = np.exp(logits - top)
    total = e.sum(0)
    p = labels.probabilities
    drawn = p.multiply(logits).sum(axis=0)
    value = labels.weights @ (np.log(total) + top - np.asarray(drawn).ravel())
    slope = e / total
    slope[p.indices, np.repeat(np.arange(p.shape[1]), np.diff(p.indptr))] -= p.data
    return float(value), slope * labels.weights


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    """The objective over the ridge in W (word, rank) and H (rank, context), flat."""

    labels: LabelMatrix
    ridge: float
    rank: int

    def flat(self, w: F64, h: F64) -> F64:
        return np.concatenate([w.ravel(), h.ravel()])

    def split(self, flat: F64) -> tuple[F64, F64]:
        words, contexts = self.labels.shape
        at = words * self.rank
        return flat[:at].reshape(words, self.rank), flat[at:].reshape(self.rank, contexts)

    def nothing(self) -> tuple[F64, F64]:
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
        value, slope = _gradient(self.labels, w @ h)
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
        slope = _gradient(self.labels, logits)[1] / self.ridge
        p, by = _softmax(logits), self.labels.weights / self.ridge

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
            if largest(_gradient(self.labels, w @ h)[1]) / self.ridge <= 1 + _SADDLE or self.full(w):
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
        u, s, v = np.linalg.svd(-_gradient(self.labels, w @ h)[1] / self.ridge, full_matrices=False)
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
        for _ in range(0 if rough else _NEWTON):
            step = minres(self.curvature(at), -gradient, rtol=1e-3, maxiter=_KRYLOV)[0]
            lower, there = self.value(at + step)
            falls = np.linalg.norm(there) < _FALLS * np.linalg.norm(gradient)
            if not falls or lower > value + _ROUNDING * abs(value):
                break
            at, value, gradient = at + step, lower, there
        return self.split(at)

    def described(self, w: F64, h: F64) -> RidgeSolution:
        """With the dual value of the feasible point that G makes: the entropy of what softmax is drawn to."""
        w = w - w.mean(0)
        logits = w @ h
        value, slope = _gradient(self.labels, logits)
        primal = value + self.ridge * float(np.linalg.svd(logits, compute_uv=False).sum())
        p = self.labels.probabilities.toarray()
        share = min(1.0, self.ridge / max(largest(slope), 1e-300))
        q = p + share * (slope / self.labels.weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(q > 0, q * np.log(q), 0.0).sum(0)
        return RidgeSolution(
            labels=self.labels, ridge=self.ridge, words=w, contexts=h, primal=primal,
            dual=-float(self.labels.weights @ each),
        )  # fmt: skip
