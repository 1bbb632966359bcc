"""Merging fine-tuned models of one base: what each method does with their task vectors.

A task vector is `tuned - base`. Arrays are stacked as "model entry"; computed in the arrays' float type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, U64
from deltagram.delta import kernels
from deltagram.delta.scores import Threshold

Floats = NDArray[Any]
Consensus = Literal["sum", "count"]
CONSENSUS: Final = ("sum", "count")
SMALL_NORM: Final = 1e-7  # below it mergekit leaves a masked tensor as it is


@dataclass(frozen=True, kw_only=True)
class Way:
    """What a method does; `normalize` and `rescale` are its defaults, as mergekit 0.1.5 has them.

    `trim`: which entries of a task vector are kept. `elect`: only entries of the elected sign are merged.
    `vectors`: task vectors are merged and added to the base; else the models themselves are averaged.
    """

    trim: Literal["none", "magnitude", "random"] = "none"
    elect: bool = False
    normalize: bool = False
    rescale: bool = False
    vectors: bool = True


METHODS: Final[Mapping[str, Way]] = {
    "linear": Way(normalize=True, vectors=False),
    "task_arithmetic": Way(),
    "ties": Way(trim="magnitude", elect=True, normalize=True),
    "dare_linear": Way(trim="random", rescale=True),
    "dare_ties": Way(trim="random", elect=True, rescale=True),
}


def trimmed_count(density: float, size: int) -> int:
    """Entries that TIES keeps of `size`: the whole part of density x size, at least one.

    >>> trimmed_count(0.2, 19), trimmed_count(0.001, 19)
    (3, 1)
    """
    return max(1, int(density * size))


def keep_largest(vector: Floats, threshold: Threshold, ties: int) -> tuple[Floats, int]:
    """`vector` with zeros in all entries that `threshold` does not keep; of equals, the first `ties` stay.

    Magnitudes are compared in float32. Returns the trimmed vector and how many ties were used.
    TIES-Merging, Yadav et al. (arXiv 2306.01708), algorithm 1, step 1.
    """
    narrow: F32 = np.ascontiguousarray(vector, np.float32)
    positions, used = kernels.select_largest(narrow, threshold.pattern, ties, 0)
    return keep_at(vector, positions), used


def keep_at(vector: Floats, positions: U64) -> Floats:
    """`vector` with zeros everywhere but at `positions`."""
    found = np.zeros_like(vector)
    where = positions.astype(np.int64)
    found[where] = vector[where]
    return found


def l1_factor(before: float, after: float) -> float:
    """What mergekit multiplies a masked task vector by: its L1 norm before over that after the mask.

    1 where either is below 1e-7. DARE's own factor is 1/(1-p) (Yu et al., arXiv 2311.03099, equation 2).

    >>> l1_factor(10.0, 4.0), l1_factor(10.0, 0.0)
    (2.5, 1.0)
    """
    return before / after if before >= SMALL_NORM and after >= SMALL_NORM else 1.0


def combine(
    vectors: Floats, weights: Sequence[float], *, consensus: Consensus | None, normalize: bool, scale: float = 1.0
) -> Floats:
    """The merged task vector of `vectors` (model, entry): `scale` (lambda) times their weighted sum or mean.

    Without `consensus`: sum_i w_i v_i, divided by sum_i w_i if `normalize` (Ilharco et al., arXiv 2212.04089).
    With it an entry's sign is elected, by the summed mass ("sum") or by the number of signs ("count") of the
    weighted vectors, and only entries of that sign are added, divided by the sum of *their* weights if
    `normalize` (TIES, arXiv 2306.01708, algorithm 1, steps 2 and 3). A sum of zero elects plus; entries that
    are zero take no part.

    >>> v = np.array([[1.0, -3.0], [2.0, 1.0]])
    >>> combine(v, [1, 1], consensus="sum", normalize=True).tolist()
    [1.5, -3.0]
    """
    weight = np.asarray(weights, vectors.dtype)
    weighted = vectors * weight[:, None]
    divisor: Any = weight.sum()
    if consensus is None:
        total: Floats = weighted.sum(axis=0)
    else:
        ballot = weighted if consensus == "sum" else np.sign(weighted)
        total, divisor = _agreeing(weighted, weight, elected=ballot.sum(axis=0) >= 0)
    if normalize:
        total /= divisor
    if scale != 1:
        total *= total.dtype.type(scale)
    return total


def _agreeing(weighted: Floats, weight: Floats, *, elected: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The sum over models of the terms that have the elected sign (plus where true), and of their weights.

    Where no term has it, the second is 1. Products with 0 and 1 instead of branches: signs are hard to predict.
    """
    total, divisor = np.zeros_like(weighted[0]), np.zeros_like(weighted[0])
    for row, one in zip(weighted, weight, strict=True):
        agree = (((row > 0) == elected) & (row != 0)).astype(row.dtype)
        divisor += agree * one
        agree *= row
        total += agree
    divisor += divisor == 0
    return total, divisor


def average(models: Floats, weights: Sequence[float], *, normalize: bool) -> Floats:
    """sum_i w_i theta_i of `models` (model, entry), divided by sum_i w_i if `normalize`.

    "Model soups", Wortsman et al., arXiv 2203.05482.

    >>> average(np.array([[1.0, 2.0], [3.0, 6.0]]), [1, 3], normalize=True).tolist()
    [2.5, 5.0]
    """
    weight = np.asarray(weights, models.dtype)
    total: Floats = (models * weight[:, None]).sum(axis=0)
    return total / weight.sum() if normalize else total
