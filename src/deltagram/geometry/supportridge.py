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

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.nexttoken import beyond_supports, in_support, within_supports
from deltagram.geometry.supportprogram import largest
from deltagram.geometry.supportsearch import RidgeSearch, entropy_slope, softmax
from deltagram.geometry.supportsvm import MarginSolution
from deltagram.geometry.wordcontext import WordContext

_MOST = 1_000_000  # logits: beyond, it takes hours
_RANK = 1e-6  # of the largest singular value


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
        found: F64 = -entropy_slope(self.labels, self.logits)[1] / self.ridge
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
        return float(entropy_slope(self.labels, self.logits)[0] - self.labels.entropy)

    @cached_property
    def outside(self) -> F64:
        """Probability of words off the support, (context)."""
        found: F64 = np.where(self.labels.support.toarray() > 0, 0.0, softmax(self.logits)).sum(0)
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
        search = RidgeSearch(labels=labels, ridge=ridge, rank=rank)
        if ridge not in ridges:
            at = search.minimum(search.left(*(at or search.nothing())), rough=True)
            continue
        tried = [search.best(at) if ridge < zero else search.nothing()]
        if rank < most and ridge < zero:
            tried += [search.best(search.drawn(seed + start)) for start in range(starts)]
        at = min(tried, key=search.objective)
        found[ridge] = _described(search, *at)
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


def _described(search: RidgeSearch, w: F64, h: F64) -> RidgeSolution:
    """With the dual value of the feasible point that G makes: the entropy of what softmax is drawn to."""
    labels, ridge = search.labels, search.ridge
    w = w - w.mean(0)
    logits = w @ h
    value, slope = entropy_slope(labels, logits)
    primal = value + ridge * float(np.linalg.svd(logits, compute_uv=False).sum())
    p = labels.probabilities.toarray()
    share = min(1.0, ridge / max(largest(slope), 1e-300))
    q = p + share * (slope / labels.weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(q > 0, q * np.log(q), 0.0).sum(0)
    return RidgeSolution(
        labels=labels, ridge=ridge, words=w, contexts=h, primal=primal,
        dual=-float(labels.weights @ each),
    )  # fmt: skip
