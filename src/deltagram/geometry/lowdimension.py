"""The margin program of next tokens in fewer dimensions than its solution takes: a search, and how far it is from free.

`min (|W|^2 + |H|^2) / 2` over W (word, dim) and H (dim, context) whose logits W H keep the margins of `supportprogram`.
Below the rank of L_mm it is not convex: augmented Lagrangians from L_mm cut down to that rank and from random starts.
What it finds is an upper bound; the value without a bound on the rank, certified, is the lower one.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import minimize

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.supportprogram import SupportProgram
from deltagram.geometry.supportsvm import MarginSolution
from deltagram.geometry.wordcontext import WordContext
from deltagram.seeds import key

_ROUNDS = 80
_STUCK = 10  # rounds that must halve the violation
_STIFFER = 2.0  # growth of the penalty where a round has not halved the violation
_STIFFEST = 1e4  # of the first penalty


@dataclass(frozen=True, kw_only=True, eq=False)
class LowDimension:
    """The best W (group, dim) and H (support, dim) found for X of `limit.program`, and how far margins are missed.

    `value` is their norm; `violation` the largest distance of a logit from margins, `starts` how many of the searches
    ended with margins kept.
    """

    limit: MarginSolution
    left: F64
    right: F64
    value: float
    violation: float
    starts: int

    @property
    def dim(self) -> int:
        """Dimensions."""
        return int(self.left.shape[1])

    @property
    def excess(self) -> float:
        """By which share the norm is above the bound that holds for any number of dimensions."""
        return self.value / self.limit.dual - 1

    @cached_property
    def factors(self) -> tuple[F64, F64, F64]:
        """U (word, dim), singular values, V (context, dim) of the logits."""
        (q, r), (p, t) = np.linalg.qr(self.left), np.linalg.qr(self.right)
        u, s, v = np.linalg.svd(r @ t.T)
        words, contexts = self.limit.program.vectors(q @ u, p @ v.T)
        return words, s, contexts

    def geometry(self, labels: LabelMatrix) -> WordContext:
        """Words and contexts of these labels, balanced."""
        told = {"limit": "ridge to zero", "scale": "margins of 1", "words": "centred", "dimensions": f"{self.dim}"}
        return WordContext.of_factors(
            self.factors, name=f"next tokens, margins in {self.dim} dimensions", word_names=labels.words,
            context_names=labels.contexts, conventions=told,
        )  # fmt: skip

    @property
    def cosine(self) -> float:
        """Of the logits with those of L_mm."""
        x, free = self.left @ self.right.T, self.limit.x
        return float((x * free).sum() / (np.linalg.norm(x) * np.linalg.norm(free)))


def low_dimension(
    limit: MarginSolution, dim: int, *, starts: int = 3, seed: int = 0, tolerance: float = 1e-6
) -> LowDimension:
    """The best of `starts` random searches and one from L_mm, in `dim` dimensions.

    Raises SettingError for `dim` below 1, and where no search keeps the margins to `tolerance`: there may be no such
    embeddings.
    """
    if dim < 1:
        raise SettingError("dim", f"is {dim}", expected="1 or more")
    search = _Search(program=limit.program, dim=dim)
    root = np.sqrt(limit.sizes[:dim])
    first = _padded(limit.left[:, :dim] * root, dim), _padded(limit.right[:, :dim] * root, dim)
    ends = [search.descend(first, tolerance)]
    if dim < limit.rank:
        scale = float(np.sqrt(limit.primal / dim))
        ends += [search.descend(search.drawn(seed + start, scale), tolerance) for start in range(starts)]
    kept = [end for end in ends if end[2] <= tolerance]
    if not kept:
        raise SettingError(
            "dim", f"{dim}: no search of {len(ends)} keeps the margins (the nearest misses one by "
            f"{min(end[2] for end in ends):.1e})",
            expected=f"up to {limit.rank}, which L_mm takes", fix="take more dimensions, or a ridge, which needs none",
        )  # fmt: skip
    w, h, violation = min(kept, key=lambda end: float((end[0] ** 2).sum() + (end[1] ** 2).sum()))
    value = float(np.linalg.svd(np.linalg.qr(w)[1] @ np.linalg.qr(h)[1].T, compute_uv=False).sum())
    return LowDimension(limit=limit, left=w, right=h, value=value, violation=violation, starts=len(kept))


def _padded(vectors: F64, dim: int) -> F64:
    return np.pad(vectors, ((0, 0), (0, dim - vectors.shape[1])))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    program: SupportProgram
    dim: int

    def split(self, flat: F64) -> tuple[F64, F64]:
        at = len(self.program.words) * self.dim
        return flat[:at].reshape(-1, self.dim), flat[at:].reshape(-1, self.dim)

    def drawn(self, seed: int, scale: float) -> tuple[F64, F64]:
        made = np.random.Generator(np.random.Philox(key=key(seed, "low dimension")))
        rows = [len(self.program.words), len(self.program.contexts)]
        words, contexts = (made.standard_normal((n, self.dim)) * (scale / np.sqrt(n)) for n in rows)
        return words, contexts

    def off(self, x: F64, pull: F64) -> F64:
        """How far X plus the pull is from margins, (group, support): half its square has it as its gradient."""
        found: F64 = x + pull - self.program.project(x + pull)[0]
        return found

    def value(self, flat: F64, pull: F64, penalty: float) -> tuple[float, F64]:
        """The augmented Lagrangian and its gradient."""
        w, h = self.split(flat)
        off = self.off(w @ h.T, pull)
        value = float(flat @ flat) / 2 + penalty / 2 * float(np.square(off).sum())
        return value, np.concatenate([(w + penalty * off @ h).ravel(), (h + penalty * off.T @ w).ravel()])

    def descend(self, start: tuple[F64, F64], tolerance: float) -> tuple[F64, F64, float]:
        """W, H and the largest violation where the rounds end."""
        at = np.concatenate([part.ravel() for part in start])
        pull = np.zeros(self.program.mask.shape)
        penalty = first = 4.0 / float(np.sqrt(np.square(self.program.proxy()).sum() / self.dim))
        violations = [np.inf]
        options = {"maxiter": 500, "maxcor": 20, "ftol": 1e-15, "gtol": 1e-9, "maxfun": 1000}
        for _ in range(_ROUNDS):
            found = minimize(self.value, at, args=(pull, penalty), jac=True, method="L-BFGS-B", options=options)
            at = np.asarray(found.x, np.float64)
            w, h = self.split(at)
            x = w @ h.T
            violations.append(self.violation(x))
            stuck = len(violations) > _STUCK and violations[-1] > violations[-_STUCK] / 2
            if violations[-1] <= tolerance or stuck:
                break
            pull = self.off(x, pull)
            if violations[-1] > violations[-2] / 2 and penalty < _STIFFEST * first:
                penalty, pull = penalty * _STIFFER, pull / _STIFFER
        return w, h, violations[-1]

    def violation(self, x: F64) -> float:
        """The largest distance of a logit from margins."""
        return float(np.abs(self.off(x, np.zeros_like(x)) / self.program.by_word / self.program.by_context).max())
