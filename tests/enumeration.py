"""Every mask of a few entries with its probability: the slow references of the theory tests."""

from itertools import combinations, pairwise, product

import numpy as np

from deltagram.arrays import F64


def independent(n: int, keep: float) -> tuple[F64, F64]:
    """All 2^n masks `(mask, col)` and their probabilities when each entry is kept with probability `keep`."""
    masks = np.array(list(product((0.0, 1.0), repeat=n)))
    kept = masks.sum(1)
    return masks, keep**kept * (1 - keep) ** (n - kept)


def of_count(n: int, kept: int) -> F64:
    """All masks that keep `kept` of n entries."""
    return np.array([np.isin(np.arange(n), chosen).astype(np.float64) for chosen in combinations(range(n), kept)])


def one_a_stratum(edges: list[int]) -> tuple[F64, F64]:
    """All masks with one entry between consecutive edges, and their probabilities."""
    strata = [range(a, b) for a, b in pairwise(edges)]
    masks = np.array([np.isin(np.arange(edges[-1]), chosen).astype(np.float64) for chosen in product(*strata)])
    return masks, np.full(len(masks), 1 / len(masks))


def changes(terms: F64, masks: F64, divide_by: float) -> F64:
    """h `(..., mask)` straight from Eq. 1 of DAREx: sum_j c_j - (1/q) sum_j delta_j c_j."""
    return np.asarray(terms.sum(-1)[..., np.newaxis] - terms @ masks.T / divide_by)
