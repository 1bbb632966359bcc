"""How a budget is best shared out among groups of tensors whose pruning does different damage."""

from collections.abc import Sequence

import numpy as np

from deltagram.arrays import F64


def kept_shares(damage: Sequence[float] | F64, cost: Sequence[float] | F64, *, budget: float) -> F64:
    """The share of each group to keep so that cost k sums to `budget` and the damage is least; axis `group`.

    Random pruning that keeps a share k adds variance damage (1 - k) / k to what a model computes (DAREx, arXiv
    2410.09344, section 3, with q = 1 - p = k), and costs cost k. Groups are taken as independent, so that their damages
    add up; at the least sum all k that are below 1 are proportional to sqrt(damage / cost). One without damage counts
    as one of a millionth of the greatest. Raises ValueError for a negative damage, and a cost or budget that is not
    positive.

    >>> kept_shares([4, 1], [1, 1], budget=0.3).round(3).tolist()
    [0.2, 0.1]
    """
    harm, price = np.asarray(damage, np.float64), np.asarray(cost, np.float64)
    if not (np.isfinite(harm).all() and (harm >= 0).all()):
        raise ValueError("a damage is finite and not negative")
    if not (np.isfinite(price).all() and (price > 0).all()):
        raise ValueError("a cost is finite and positive")
    if not 0 < budget < float("inf"):
        raise ValueError(f"a budget is positive, not {budget}")
    floor = harm.max(initial=0.0) * 1e-6 or 1.0  # a group without damage still keeps a little
    wanted = np.sqrt(np.maximum(harm, floor) / price)
    shares = np.ones_like(wanted)
    free = np.ones(wanted.size, bool)
    while free.any():
        left = budget - float(price[~free].sum())
        shares[free] = wanted[free] * left / float((price * wanted)[free].sum())
        over = free & (shares >= 1)
        if not over.any():
            break
        shares[over] = 1.0
        free &= ~over
    return shares
