"""In what order the directions of the centred supports appear in a model's logits, over checkpoints of its training."""

from collections.abc import Sequence

import numpy as np

from deltagram.arrays import F64
from deltagram.geometry.factors import Factors


def strengths(logits: F64, factors: Factors) -> F64:
    """`u_k^T L v_k` of logits (word, context), columns centred: how much of each direction is in them, (direction).

    The singular values, for L the centred supports themselves.
    """
    centred = logits - logits.mean(0)
    found: F64 = np.einsum("zk,zk->k", factors.words, centred @ factors.contexts)
    return found


def half_learnt(over: Sequence[F64]) -> list[int | None]:
    """For each direction the first checkpoint with half of its last strength; None where that is not positive.

    Directions of large singular values come first where logits grow from zero (arXiv 2505.08348).

    >>> half_learnt([np.array([0.0, 0.0, 1.0]), np.array([3.0, 0.4, 0.0]), np.array([5.0, 2.0, -1.0])])
    [1, 2, None]
    """
    last = over[-1]
    return [
        next(step for step, one in enumerate(over) if one[k] >= last[k] / 2) if last[k] > 0 else None
        for k in range(len(last))
    ]
