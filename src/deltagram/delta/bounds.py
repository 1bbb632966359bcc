"""Bounds on one neuron's output change under independent random dropping: P(|h| > bound) <= gamma over masks.

Symbols as in `deltagram.delta.moments`: terms c_j = dW_j x_j, `total` S = sum_j c_j, `squares` Q = sum_j c_j^2,
`largest` max_j |c_j|, `keep` 1 - p. All arrays broadcast. DAREx: arXiv 2410.09344. Masks of a fixed count are not
independent and not covered.
"""

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.delta.moments import check_keep


def phi(keep: ArrayLike) -> F64:
    """Phi(p) = (1 - 2p) / log((1-p)/p): half of it is the least sub-Gaussian variance of a centred Bernoulli(p).

    Phi(1/2) = 1/2, Phi(0) = Phi(1) = 0, Phi(p) = Phi(1-p). Kearns and Saul, "Large deviation methods for approximate
    probabilistic inference" (UAI 1998), in the form of DAREx Eq. 5.

    >>> phi([0.5, 0.01, 0.99, 1.0]).round(4).tolist()
    [0.5, 0.2133, 0.2133, 0.0]
    """
    share, _ = check_keep(keep)
    away = 2 * share - 1  # 1 - 2p, exact near p = 1/2
    with np.errstate(divide="ignore", invalid="ignore"):
        near = away / (2 * np.arctanh(away))
        far = away / (np.log(share) - np.log1p(-share))
    return np.asarray(np.where(away == 0, 0.5, np.where(np.abs(away) < 0.5, near, far)))


def deviation(squares: ArrayLike, *, keep: ArrayLike, divide_by: ArrayLike, gamma: ArrayLike) -> F64:
    """(1/q) sqrt(Phi(p) Q log(2/gamma)), which |h - E h| exceeds with probability gamma at most (Kearns and Saul)."""
    _, q = check_keep(keep, divide_by)
    return np.asarray(np.sqrt(phi(keep) * np.asarray(squares) * _log(gamma)) / q)


def kearns_saul(
    total: ArrayLike, squares: ArrayLike, *, keep: ArrayLike, divide_by: ArrayLike, gamma: ArrayLike
) -> F64:
    """|1 - keep/q| |S| + (1/q) sqrt(Phi(p) Q log(2/gamma)): DAREx Eq. 8 (appendix E.1), with a divisor q.

    At q = keep it is Eq. 8 itself, the valid form of Theorem 3.1.

    >>> round(float(kearns_saul(1.0, 1.0, keep=0.01, divide_by=0.01, gamma=0.009)), 1)
    107.4
    """
    share, q = check_keep(keep, divide_by)
    spread = deviation(squares, keep=keep, divide_by=divide_by, gamma=gamma)
    return np.asarray(np.abs(1 - share / q) * np.abs(total) + spread)


def bernstein(
    total: ArrayLike,
    squares: ArrayLike,
    largest: ArrayLike,
    *,
    keep: ArrayLike,
    divide_by: ArrayLike,
    gamma: ArrayLike,
) -> F64:
    """|E h| + M L/3 + sqrt((M L/3)^2 + 2 V L), L = log(2/gamma), V = Var h, M = largest max(p, 1-p)/q.

    Bernstein's inequality solved for the deviation. It scales with the variance p (1-p) Q/q^2, so for many small terms
    it is the tighter one at high p. Not in the paper.

    >>> round(float(bernstein(1.0, 1.0, 1.0, keep=0.01, divide_by=0.01, gamma=0.009)), 1)
    359.6
    """
    share, q = check_keep(keep, divide_by)
    log = _log(gamma)
    variance = share * (1 - share) * np.asarray(squares) / q**2
    jump = np.asarray(largest) * np.maximum(share, 1 - share) / q * log / 3
    return np.asarray(np.abs(1 - share / q) * np.abs(total) + jump + np.sqrt(jump**2 + 2 * variance * log))


def printed(squares: ArrayLike, *, keep: ArrayLike, gamma: ArrayLike) -> F64:
    """DAREx Theorem 3.1 as printed, for q = 1-p. **Not a bound**: kept to show where it fails.

    (Psi(p)/(1-p)) sqrt(Q log(2/gamma)), with Psi = Phi for p <= 1/2, where the square root of Phi is missing, else
    sqrt(2 p (1-p)), from a one-sided lemma that does not hold for terms of both signs. One term c = 1 at p = .99 and
    gamma = .009: |h| is 99 with probability .01, this says 32.7. Use `kearns_saul` or `bernstein`.

    >>> round(float(printed(1.0, keep=0.01, gamma=0.009)), 1)
    32.7
    """
    share, _ = check_keep(keep)
    psi = np.where(share >= 0.5, phi(keep), np.sqrt(2 * share * (1 - share)))
    return np.asarray(psi / share * np.sqrt(np.asarray(squares) * _log(gamma)))


def _log(gamma: ArrayLike) -> F64:
    """log(2/gamma). Raises ValueError for a probability outside (0, 1)."""
    chance = np.asarray(gamma, np.float64)
    if not np.all((chance > 0) & (chance < 1)):
        raise ValueError(f"gamma is a probability between 0 and 1, not {chance}")
    return np.asarray(np.log(2 / chance))
