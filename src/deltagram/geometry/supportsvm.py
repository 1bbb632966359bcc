"""The margin program of next tokens, solved with a certificate: alternating directions, singular value thresholding.

`L_mm`, the direction that logits of free embeddings take as the ridge vanishes (arXiv 2408.15417): see
`supportprogram` for what it is. Each step shrinks singular values and projects columns, both exactly; what the
projections took away is a dual point, so that every look gives a primal and a dual value.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.supportdual import ProxyCertificate, Uniqueness, certify_proxy, uniqueness
from deltagram.geometry.supportprogram import SupportProgram, gram_of
from deltagram.geometry.wordcontext import WordContext

_RELAXED = 1.6  # over-relaxation
_LOOK = 10  # steps between two looks at the gap
_APART = 2.0  # residuals further apart move the penalty
_PENALTY = 1.5  # by which it moves
_SETTLES = 300  # steps after which it stays
_RANK = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class MarginSolution:
    """The least nuclear norm with margins of 1, and what shows it.

    `x` is X of `program` (group, support), feasible, with `primal` its norm; `dual` is the value of the feasible dual
    `point`, a lower bound. `left` (group, rank), `sizes` (rank) and `right` (support, rank) decompose X. `proxy` is the
    certificate of the centred supports, `iterations` is 0 where they are the solution.
    """

    program: SupportProgram
    x: F64
    point: F64
    left: F64
    sizes: F64
    right: F64
    primal: float
    dual: float
    iterations: int
    proxy: ProxyCertificate
    uniqueness: Uniqueness

    @property
    def gap(self) -> float:
        """Relative duality gap: the norm is within this share of the least one."""
        return (self.primal - self.dual) / self.primal

    @property
    def rank(self) -> int:
        """Dimensions that embeddings need."""
        return len(self.sizes)

    @cached_property
    def logits(self) -> F64:
        """L_mm (word, context), columns of mean zero."""
        return self.program.logits(self.x)

    @cached_property
    def factors(self) -> tuple[F64, F64, F64]:
        """U (word, rank), singular values, V (context, rank) of L_mm."""
        u, v = self.program.vectors(self.left, self.right)
        return u, self.sizes, v

    def geometry(self, labels: LabelMatrix) -> WordContext:
        """Words and contexts of the labels it was solved for: Grams `(L L^T)^(1/2)` and `(L^T L)^(1/2)`."""
        told = {"limit": "ridge to zero", "scale": "margins of 1", "words": "centred"}
        full = int((self.program.context_of < 0).sum())
        if full:
            told["full supports"] = f"{full} contexts that any word follows are zero: nothing is asked of them"
        return WordContext.of_factors(
            self.factors, name="next tokens, margin program", word_names=labels.words, context_names=labels.contexts,
            conventions=told,
        )  # fmt: skip

    @cached_property
    def margins(self) -> F64:
        """How far each support is above the highest word off it, (support): 1, or more nowhere that it is tight."""
        logits = self.x / self.program.by_word / self.program.by_context
        inside = np.where(self.program.mask, logits, np.inf).min(0)
        found: F64 = inside - np.where(self.program.mask, -np.inf, logits).max(0)
        return found

    @property
    def slack(self) -> float:
        """The share of margins of distinct supports that are above 1 by more than a thousandth."""
        logits = self.x / self.program.by_word / self.program.by_context
        level = np.where(self.program.mask, logits, -np.inf).max(0)
        return float((level - logits > 1.001)[~self.program.mask].mean())


def max_margin(
    labels: LabelMatrix, *, tolerance: float = 1e-6, iterations: int = 5000, look_for_others: bool = True
) -> MarginSolution:
    """L_mm of these labels, with a relative duality gap of at most `tolerance`.

    `look_for_others` False leaves uniqueness unknown, which saves time where there are many dimensions. Raises
    SettingError for a tolerance outside (0, 1), labels that `SupportProgram.of` refuses, and where `iterations` do not
    reach the tolerance.

    >>> found = max_margin(LabelMatrix.of_counts([[0, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]), tolerance=1e-9)
    >>> round(found.primal, 5), round(found.proxy.value, 5), found.proxy.exact
    (2.63299, 2.65831, 'no')
    """
    if not 0 < tolerance < 1:
        raise SettingError("tolerance", f"{tolerance:g}", expected="a number between 0 and 1")
    program = SupportProgram.of(labels)
    proof, point = certify_proxy(program)
    start = program.proxy()
    if proof.value - proof.bound <= tolerance * proof.value:
        found = _State(x=start, point=point, primal=proof.value, dual=proof.bound, rank=_rank(start), steps=0)
    else:
        found = _alternated(program, start, tolerance=tolerance, iterations=iterations)
    u, s, v = np.linalg.svd(found.x, full_matrices=False)
    told = Uniqueness(unique="unknown", why="not looked at")
    if look_for_others:
        told = uniqueness(program, found.x, found.point)
    return MarginSolution(
        program=program, x=found.x, point=found.point, left=u[:, : found.rank], sizes=s[: found.rank],
        right=v[: found.rank].T, primal=found.primal, dual=found.dual, iterations=found.steps, proxy=proof,
        uniqueness=told,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class _State:
    x: F64
    point: F64
    primal: float
    dual: float
    rank: int
    steps: int


def _rank(x: F64) -> int:
    sizes = np.linalg.svd(x, compute_uv=False)
    return int((sizes > _RANK * sizes[0]).sum())


def _alternated(program: SupportProgram, start: F64, *, tolerance: float, iterations: int) -> _State:
    """Steps from the proxy until primal and dual value meet."""
    sizes = np.linalg.svd(start, compute_uv=False)
    penalty = 1 / float(np.median(sizes[sizes > _RANK * sizes[0]]))
    z, pull = start, np.zeros_like(start)
    level: F64 | None = None
    primal, dual, best, point = np.inf, 0.0, start, start
    for step in range(1, iterations + 1):
        low, rank = shrunk(z - pull, 1 / penalty)
        mixed = _RELAXED * low + (1 - _RELAXED) * z
        before = z
        z, level = program.project(mixed + pull, level)
        pull = pull + mixed - z
        if step % _LOOK:
            continue
        value, there = program.dual(-pull)
        if value > dual:
            dual, point = value, there
        kept = program.centred(z)
        norm = float(np.linalg.svd(kept, compute_uv=False).sum())
        if norm < primal:
            primal, best = norm, kept
        if primal - dual <= tolerance * primal:
            return _State(x=best, point=point, primal=primal, dual=dual, rank=rank, steps=step)
        off, change = np.linalg.norm(low - z) / np.linalg.norm(low), np.linalg.norm(z - before) / np.linalg.norm(pull)
        by = _PENALTY if off > _APART * change else (1 / _PENALTY if change > _APART * off else 1.0)
        if step <= _SETTLES:
            penalty, pull = penalty * by, pull / by
    raise SettingError(
        "margin program", f"reaches a relative gap of {(primal - dual) / primal:.1e} in {iterations} iterations",
        expected=f"{tolerance:g}", fix="allow more iterations, or a larger tolerance",
    )  # fmt: skip


def shrunk(x: F64, by: float) -> tuple[F64, int]:
    """X with its singular values less `by`, or zero, and how many are left; from the smaller Gram.

    Singular values far below the largest are wrong there, but those are below `by` too.
    """
    squares, axes = np.linalg.eigh(gram_of(x))
    sizes = np.sqrt(np.maximum(squares, 0.0))
    kept = sizes > by
    axes = axes[:, kept]
    share = 1 - by / sizes[kept]
    wide = x.shape[0] <= x.shape[1]
    found: F64 = (axes * share) @ (axes.T @ x) if wide else ((x @ axes) * share) @ axes.T
    return found, int(kept.sum())
