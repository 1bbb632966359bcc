"""Closed-form geometry of cross-entropy for any class counts and multipliers (arXiv 2208.05512 and 2303.07608).

Where it holds: the global minimum of the cost-sensitive margin problem on free features, which regularised
cross-entropy approaches as its ridge vanishes, for any counts, with feature dimension at least k - 1 and no bias (or a
free one: `free_bias`). Where it does not: a ridge that does not vanish (`path`), features of fewer dimensions,
non-negative features whose means are not re-centred, normalised features, label smoothing, mixup, squared loss.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.contrastive import prototypes, supervised_contrastive
from deltagram.geometry.frames import etf, orthogonal_frame
from deltagram.geometry.gram import Geometry
from deltagram.geometry.matrix import Matrix
from deltagram.geometry.problem import Problem, scale_by_counts
from deltagram.geometry.roots import Projected

__all__ = [
    "TARGETS",
    "Certificate",
    "cdt",
    "certificate",
    "cross_entropy",
    "enough_dimensions",
    "etf",
    "free_bias",
    "ldt",
    "margin_solution",
    "orthogonal_frame",
    "prototypes",
    "seli",
    "supervised_contrastive",
]

_SCALE: Final = "margins of 1; classifiers and means share one norm budget"
_BLOCK: Final = 1024  # rows of a matrix of k x k that are looked at together


def cross_entropy(
    counts: ArrayLike,
    *,
    class_scale: ArrayLike | None = None,
    label_scale: ArrayLike | None = None,
    dim: int | None = None,
    name: str = "",
) -> Geometry:
    """The limit of vanishing ridge for these samples a class: SELI, or with multipliers that of CDT, LDT and VS.

    With `a_c ~ 1 / class_scale[c]`, `|a| = 1`, `P = I - a a^T` and `Q = diag(sqrt(n) / (class_scale label_scale))`:
    classifiers `(P Q^2 P)^(1/2)`, means `N^(-1/2) (Q P Q)^(1/2) N^(-1/2)`, logits `P diag(1 / (class_scale
    label_scale))`. Theorem 1 of arXiv 2303.07608 states it for two sizes of classes; the dual solution (`certificate`)
    shows it for any counts. Additive offsets and class weights do not move this limit (Section 4 there).

    Takes O(k) memory. Raises SettingError for bad counts or scales, and for `dim` (of the features) below k - 1.
    """
    problem = Problem.of(counts, class_scale=class_scale, label_scale=label_scale)
    enough_dimensions(dim, problem.classes)
    solution = margin_solution(problem)
    by_count = 1 / np.sqrt(problem.counts)
    plain = class_scale is None and label_scale is None
    return Geometry(
        name=name or ("seli" if plain else "cross-entropy"),
        classifiers=solution.left_root(),
        means=solution.right_root().scaled(by_count, by_count),
        logits=solution.product().scaled(cols=by_count),
        counts=problem.counts,
        conventions={"limit": "ridge to zero", "scale": _SCALE, "bias": "none", "mean of means": _centre(problem)},
    )


def _centre(problem: Problem) -> str:
    """What makes the predicted class means sum to zero: the centring to measure with."""
    return "zero" if np.ptp(problem.label_scale) == 0 else "zero under weights label_scale"


def enough_dimensions(dim: int | None, classes: int) -> None:
    """Raises SettingError for fewer than k - 1 feature dimensions; None is not checked."""
    if dim is not None and dim < classes - 1:
        raise SettingError(
            "dim", f"{dim} dimensions for {classes} classes", expected=f"{classes - 1} or more",
            fix="the closed form does not hold in fewer; no closed form is known there",
        )  # fmt: skip


def margin_solution(problem: Problem) -> Projected:
    """`X = W M^T N^(1/2)` at the minimum of `||X||_*` under margins 1: a projection times a diagonal."""
    a = 1 / problem.class_scale
    q = np.sqrt(problem.counts) / (problem.class_scale * problem.label_scale)
    return Projected(a=a / np.linalg.norm(a), q=q)


def seli(counts: ArrayLike, *, dim: int | None = None) -> Geometry:
    """Simplex-encoded-labels interpolation, Definition 2 of arXiv 2208.05512: plain cross-entropy under imbalance."""
    return cross_entropy(counts, dim=dim, name="seli")


def cdt(counts: ArrayLike, *, gamma: float, dim: int | None = None) -> Geometry:
    """Class-dependent temperatures `n_c^gamma` on the logits, Eq. (3a) of arXiv 2303.07608."""
    return cross_entropy(counts, class_scale=scale_by_counts(counts, gamma), dim=dim, name=f"CDT, gamma {gamma:g}")


def ldt(counts: ArrayLike, *, gamma: float, dim: int | None = None) -> Geometry:
    """Label-dependent temperatures `n_c^gamma`, Eq. (3b) of arXiv 2303.07608."""
    return cross_entropy(counts, label_scale=scale_by_counts(counts, gamma), dim=dim, name=f"LDT, gamma {gamma:g}")


def free_bias(counts: ArrayLike, *, dim: int | None = None) -> tuple[Geometry, F64]:
    """The limit with a bias that is not penalised, and that bias, (class): `n_c / sum(n) - 1/k`.

    `X = N^(1/2) (I - v v^T)` with `v = sqrt(n / sum(n))`: the transpose of the problem without a bias; class means are
    centred in the mean over samples. Found with a numerical certificate (`convex` agrees); no proof is known for all
    counts, and multipliers are not covered.
    """
    problem = Problem.of(counts)
    n, k = problem.counts, problem.classes
    enough_dimensions(dim, k)
    solution = Projected(a=np.sqrt(n / n.sum()), q=np.sqrt(n))
    by_count = 1 / np.sqrt(n)
    product = solution.product()
    swapped = Matrix(diagonal=product.diagonal, left=product.right, right=product.left)
    geometry = Geometry(
        name="seli with a free bias",
        classifiers=solution.right_root(),
        means=solution.left_root().scaled(by_count, by_count),
        logits=swapped.scaled(cols=by_count),
        counts=n,
        conventions={"limit": "ridge to zero", "scale": _SCALE, "bias": "free", "mean of means": "zero over samples"},
    )
    return geometry, n / n.sum() - 1 / k


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """That a solution is optimal: a feasible dual point of the same value.

    `largest` is the largest entry off the diagonal of the dual matrix: negative means that all margins are active and
    the solution is the only one. `gap` is primal minus dual value, relative to the primal one.
    """

    primal: float
    dual: float
    largest: float

    @property
    def gap(self) -> float:
        """Relative duality gap."""
        return (self.primal - self.dual) / self.primal

    @property
    def holds(self) -> bool:
        """Whether every multiplier is positive."""
        return self.largest < 0


def certificate(
    counts: ArrayLike, *, class_scale: ArrayLike | None = None, label_scale: ArrayLike | None = None
) -> Certificate:
    """The dual certificate of `cross_entropy`: the polar factor of X, and the multipliers it gives the margins.

    The multiplier of the margin of class y against c is `-sqrt(n_y) B[c, y] / (class_scale[c] label_scale[y])`.
    Looks at k^2 entries, a block of rows at a time.
    """
    problem = Problem.of(counts, class_scale=class_scale, label_scale=label_scale)
    solution = margin_solution(problem)
    polar = solution.polar()
    largest, dual = -np.inf, 0.0
    by_col = np.sqrt(problem.counts) / problem.label_scale
    for start in range(0, problem.classes, _BLOCK):
        rows = slice(start, min(start + _BLOCK, problem.classes))
        block = polar.block(rows)
        at = np.arange(block.shape[0])
        block[at, at + start] = -np.inf
        largest = max(largest, float(block.max()))
        block[at, at + start] = 0.0
        dual -= float((block / problem.class_scale[rows, None] * by_col).sum())
    return Certificate(primal=float(solution.left_root().entries().sum()), dual=dual, largest=largest)


# Geometries that a measurement is held against, by name, from the counts of its classes.
TARGETS: Final[Mapping[str, Callable[[F64], Geometry]]] = {
    "etf": lambda counts: etf(len(counts)),
    "orthogonal-frame": lambda counts: orthogonal_frame(len(counts)),
    "seli": seli,
}
