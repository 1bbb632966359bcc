"""The paper's own per-layer divisor, DAREx (arXiv 2410.09344) Eq. 5: a baseline, and why it is not the default.

For one neuron with terms c_j = dW_j x_j, sums S and Q (`deltagram.delta.moments`), and one eta shared by all layers,

    q(eta) = argmin_q | log(2/gamma) + eta (1 - (1-p)/q) S + eta^2 Phi(p) Q / (4 q^2) |,    1-p <= q <= most.

A layer's divisor is the mean over its neurons, as in the published code (the paper does not say). **The defect**: about
half of the neurons have S <= 0; for them the bracket falls for ever as q grows, their q is the cap, and so a layer's
mean is near 1/2 or above: nothing of the delta is left at p = .99. The published code reports small q because it
computes in half precision and stops early (`published_code_q`). `moments.best_divisor` is the sound replacement.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deltagram.arrays import F32, F64
from deltagram.delta.bounds import phi
from deltagram.delta.moments import sums

Half = NDArray[np.float16]
STEP = 0.001  # of the published scan


def per_row_q(terms: ArrayLike, *, keep: float, eta: float, gamma: float = 0.05, most: float = 0.999) -> F64:
    """Eq. 5 solved exactly for each neuron of `terms` `(row, col)`.

    In u = 1/q the bracket is a u^2 - b u + k, a = eta^2 Phi Q/4, b = eta (1-p) S, k = log(2/gamma) + eta S. Where
    S > 0 it is positive and least at u = b/2a, that is q = eta Phi Q / (2 (1-p) S). Where S <= 0 it rises with u: q is
    `most`, unless k is so negative that the bracket has its zero below. Raises ValueError for settings out of range.

    >>> per_row_q([[0.002] * 100, [-0.002] * 100], keep=0.01, eta=1.0).round(4).tolist()
    [0.0213, 0.999]
    """
    _check(keep, eta=eta, gamma=gamma, most=most)
    total, squares = sums(terms)
    a, b = eta**2 * phi(keep) * squares / 4, eta * keep * total
    k = math.log(2 / gamma) + eta * total
    below = np.minimum(k, 0.0)
    root = np.sqrt(b**2 - 4 * a * below)
    # without cancellation as b <= 0 there; k = 0 or more gives 0, which is clipped to the cap
    zero = np.divide(2 * below, b - root, out=np.zeros_like(b), where=b < root)
    least = np.divide(b, 2 * a, out=np.full_like(b, np.inf), where=a > 0)
    u = np.where((total > 0) | (squares == 0), least, zero)
    return np.asarray(1 / np.clip(u, 1 / most, 1 / keep))


def per_layer_q(terms: ArrayLike, *, keep: float, eta: float, gamma: float = 0.05, most: float = 0.999) -> float:
    """The mean of `per_row_q` over a layer's neurons: DAREx Eq. 5 and Algorithm 3, in exact arithmetic.

    `terms` `(row, col)` are dW_ij times the mean input x_j (the published code's), bias included as a column.
    """
    return float(np.mean(per_row_q(terms, keep=keep, eta=eta, gamma=gamma, most=most)))


def published_code_q(
    terms: ArrayLike, *, keep: float, eta: float, gamma: float = 0.05, most: float = 0.998, stop: float = 0.8
) -> float:
    """What the published numbers were made with: Eq. 5 scanned in half precision, and left early.

    q runs from 1-p in steps of 0.001. Each operation rounds to float16, whose step near log(2/gamma) = 3.69 is 0.002,
    and squares of terms below 1.7e-4 vanish: brackets stop falling by rounding. Once a share `stop` of the neurons
    has failed to fall at least once, the scan ends; the layer's q is the mean of the best q seen so far (of equals the
    later). A baseline written from the description of the method, to show the effect; not a method to use.
    """
    _check(keep, eta=eta, gamma=gamma, most=most)
    with np.errstate(over="ignore", under="ignore"):
        c = np.asarray(terms, np.float64).astype(np.float16)
        total, squares = _half(c.astype(np.float32).sum(-1)), _half((c * c).astype(np.float32).sum(-1))
        least = np.full(total.shape, np.inf, np.float16)
        best, failed = np.full(total.shape, keep), np.zeros(total.shape, np.bool_)
        for q in np.arange(keep, most + STEP / 2, STEP):
            size = _half_bracket(total, squares, keep=keep, q=float(q), eta=eta, gamma=gamma)
            failed |= ~(size < least)
            best[size <= least] = q
            least = np.minimum(least, size)
            if failed.mean() >= stop:
                break
    return float(np.mean(best))


def _half_bracket(total: Half, squares: Half, *, keep: float, q: float, eta: float, gamma: float) -> Half:
    """The size of the bracket of Eq. 5, each operation in float32 and rounded to float16."""
    drift = _half(total.astype(np.float32) * np.float32(eta * (1 - keep / q)))
    spread = _half(squares.astype(np.float32) * np.float32(eta**2 * float(phi(keep)) / (4 * q**2)))
    shifted = _half(drift.astype(np.float32) + np.float32(math.log(2 / gamma)))
    bracket: Half = np.abs(shifted + spread)
    return bracket


def _half(values: F32) -> Half:
    return values.astype(np.float16)


def _check(keep: float, *, eta: float, gamma: float, most: float) -> None:
    if not 0 < keep < most:
        raise ValueError(f"the share kept lies between 0 and the cap {most}, not {keep}")
    if not eta > 0:
        raise ValueError(f"eta is positive, not {eta}")
    if not 0 < gamma < 1:
        raise ValueError(f"gamma is a probability between 0 and 1, not {gamma}")
