"""Spread within classes against distance between them: NC1 in its three forms, and the rank of the class means."""

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64
from deltagram.errors import SettingError

THIN = 1024  # classes up to which means are decomposed themselves, not their squares: keeps all digits
_TILE = 512  # classes a side of a tile of pairs
_NEAR = 1e-4  # squared distance, relative to squared norms, below which a pair is subtracted before it is squared
EPS = float(np.finfo(np.float64).eps)


def nc1(within: F64, means: F64, shares: F64, *, size: float = 0.0) -> float:
    """tr(S_W S_B^+), not divided by the number of classes.

    `within` is S_W (feature, feature); S_B = sum_c shares_c m_c m_c^T of centred `means` (class, feature); `size` is
    the largest norm of the means before centring, from which rounding left something where S_B is zero. By the thin
    decomposition of the means, not by that of S_B (Papyan, Han and Donoho 2020, who divide by the classes; in
    arXiv 2303.07608 not divided). Spread outside the span of the means does not count.

    >>> round(nc1(np.diag([0.1, 7.0]), np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([0.5, 0.5])), 12)
    0.1

    NaN where all means are equal.
    """
    scaled = np.sqrt(shares)[:, None] * means
    classes, width = scaled.shape
    if classes <= max(width, THIN):
        _, values, axes = np.linalg.svd(scaled, full_matrices=False)
    else:
        squares, columns = np.linalg.eigh(scaled.T @ scaled)
        values, axes = np.sqrt(np.maximum(squares, 0.0)), columns.T
        size = max(size, float(values[-1]) / np.sqrt(EPS * max(classes, width)))  # eigenvalues are squares
    kept = values > EPS * max(classes, width) * max(float(values.max(initial=0.0)), size)
    if not kept.any():
        return float("nan")
    axes = axes[kept]
    return float((np.einsum("rd,rd->r", axes @ within, axes) / values[kept] ** 2).sum())


def nc1_ratio(variances: F64, means: F64, *, within: F64, between: F64) -> float:
    """tr S_W / tr S_B, of variances (class) and centred means (class, feature) under shares (class) of each.

    NaN where all means are equal.
    """
    apart = float(between @ np.einsum("cd,cd->c", means, means))
    return float(within @ variances) / apart if apart else float("nan")


def cdnv(variances: F64, means: F64, *, power: int = 2) -> float:
    """Class-distance normalised variance: the mean over pairs i < j of (v_i + v_j) / (2 |mu_i - mu_j|^power).

    Power 2 is that of Galanti, György and Hutter (2022, arXiv 2112.15121), 4 is in use for language models. In tiles
    of one triangle: no k x k matrix; pairs that lie close are subtracted before they are squared. Infinite where two
    means are equal and one of them has a spread.

    >>> cdnv(np.array([1.0, 3.0]), np.array([[0.0], [4.0]]))
    0.125

    Raises SettingError for another power than 2 or 4.
    """
    if power not in (2, 4):
        raise SettingError("cdnv", f"the power {power} of the distance", expected="2 or 4")
    classes, squares = len(means), np.einsum("cd,cd->c", means, means)
    total = 0.0
    for low in range(0, classes, _TILE):
        for high in range(low, classes, _TILE):
            rows, cols = slice(low, min(low + _TILE, classes)), slice(high, min(high + _TILE, classes))
            both = squares[rows, None] + squares[None, cols]
            apart = both - 2 * (means[rows] @ means[cols].T)
            pair = np.triu(np.ones(apart.shape, bool), k=1 if low == high else -len(apart))
            _mend(apart, means[rows], means[cols], near=pair & (apart < _NEAR * both))
            spread = (variances[rows, None] + variances[None, cols])[pair] / 2
            with np.errstate(divide="ignore", invalid="ignore"):
                total += float((spread / apart[pair] ** (power // 2)).sum())
    return total / (classes * (classes - 1) / 2)


def _mend(apart: F64, rows: F64, cols: F64, *, near: NDArray[np.bool_]) -> None:
    """Write squared distances of close pairs anew, in place: their squares cancel."""
    at, to = np.nonzero(near)
    for start in range(0, len(at), _TILE):
        i, j = at[start : start + _TILE], to[start : start + _TILE]
        off = rows[i] - cols[j]
        apart[i, j] = np.einsum("pd,pd->p", off, off)


def effective_rank(means: F64) -> float:
    """exp of the entropy of the singular values of centred means, as shares of their sum (Roy and Vetterli 2007).

    Between 1 and k - 1: k - 1 for a simplex frame.

    >>> round(effective_rank(np.eye(4) - 0.25), 12)
    3.0

    NaN where all means are zero.
    """
    if len(means) <= THIN or means.shape[1] > len(means):
        values = np.linalg.svd(means, compute_uv=False)
    else:
        values = np.sqrt(np.maximum(np.linalg.eigvalsh(means.T @ means), 0.0))
    if not values.any():
        return float("nan")
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares @ np.log(shares))))
