"""How much random dropping moves an output, exactly: mean, variance and mean square over masks.

A neuron's output changes by h = sum_j c_j - (1/q) sum_j delta_j c_j, the terms being c_j = dW_j x_j, delta_j = 1 where
entry j is kept and q the divisor (DAREx, arXiv 2410.09344, Eq. 1 and 2). Of the terms only two sums matter:
`total` S = sum_j c_j and `squares` Q = sum_j c_j^2; `signal` stands for S^2, or its mean over tokens and neurons.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean and variance over masks of output changes, one a neuron and token (any shape)."""

    mean: F64
    variance: F64

    @property
    def mean_square(self) -> F64:
        """E h^2."""
        return np.asarray(self.mean**2 + self.variance)

    @property
    def mean_absolute(self) -> F64:
        """E |h| were h normal: sd sqrt(2/pi) exp(-z^2/2) + mean erf(z/sqrt 2), with z = mean/sd (a folded normal)."""
        from scipy.special import erf  # noqa: PLC0415 - scipy is slow to import

        sd = np.sqrt(self.variance)
        moving = sd > 0
        z = np.divide(self.mean, sd, out=np.zeros_like(sd), where=moving)
        folded = sd * math.sqrt(2 / math.pi) * np.exp(-(z**2) / 2) + self.mean * erf(z / math.sqrt(2))
        return np.asarray(np.where(moving, folded, np.abs(self.mean)))


def check_keep(keep: ArrayLike, divide_by: ArrayLike = 1.0) -> tuple[F64, F64]:
    """Both as float64. Raises ValueError unless 0 < keep <= 1 and the divisor is positive (inf: nothing is added)."""
    share, divisor = np.asarray(keep, np.float64), np.asarray(divide_by, np.float64)
    if not np.all((share > 0) & (share <= 1)):
        raise ValueError(f"the share kept lies in (0, 1], not {share}")
    if not np.all(divisor > 0):
        raise ValueError(f"a divisor is positive, not {divisor}")
    return share, divisor


def sums(terms: ArrayLike) -> tuple[F64, F64]:
    """S and Q of terms `(..., col)`: their sum and their sum of squares over the last axis.

    >>> [float(found) for found in sums([1.0, -2.0, 4.0])]
    [3.0, 21.0]
    """
    c = np.asarray(terms, np.float64)
    return np.asarray(c.sum(-1)), np.asarray((c**2).sum(-1))


def layer_sums(delta: ArrayLike, inputs: ArrayLike) -> tuple[F64, F64]:
    """Signal and squares of each neuron of a layer, means over tokens; their sums over neurons are the layer's.

    `delta` is dW `(row, col)`, `inputs` X `(token, col)`; signal_i = E (dW x)_i^2, squares_i = sum_j dW_ij^2 E x_j^2.
    """
    w, x = np.asarray(delta, np.float64), np.asarray(inputs, np.float64)
    return np.asarray(np.mean((x @ w.T) ** 2, axis=0)), np.asarray(w**2 @ np.mean(x**2, axis=0))


def bernoulli(total: ArrayLike, squares: ArrayLike, *, keep: ArrayLike, divide_by: ArrayLike) -> Moments:
    """E h = (1 - keep/q) S and Var h = keep (1 - keep) Q / q^2, for masks that keep each entry independently.

    Derived from DAREx Eq. 1 with delta_j of mean `keep` and variance keep (1 - keep); all arrays broadcast.

    >>> found = bernoulli(3.0, 21.0, keep=0.25, divide_by=0.5)
    >>> float(found.mean), float(found.variance)
    (1.5, 15.75)
    """
    share, q = check_keep(keep, divide_by)
    mean = (1 - share / q) * np.asarray(total, np.float64)
    return Moments(mean=np.asarray(mean), variance=mean * 0 + share * (1 - share) / q**2 * np.asarray(squares))


def fixed_count(terms: ArrayLike, *, kept: int, divide_by: ArrayLike) -> Moments:
    """The same for masks that keep exactly `kept` of the n entries of `terms` `(..., col)`, every choice as likely.

    With k = kept/n: E h = (1 - k/q) S, Var h = k (1 - k) n/(n-1) sum_j (c_j - mean c)^2 / q^2: what the terms have in
    common moves the mean only. Not what independent masks do. (Sampling without replacement; no equation of the paper.)
    """
    c = np.asarray(terms, np.float64)
    n = c.shape[-1]
    share, q = check_keep(kept / n, divide_by)
    spread = np.var(c, axis=-1) * n
    factor = share * (1 - share) * n / max(1, n - 1)
    return Moments(mean=np.asarray((1 - share / q) * c.sum(-1)), variance=np.asarray(factor * spread / q**2))


def stratified(terms: ArrayLike, *, kept: int, divide_by: ArrayLike) -> Moments:
    """The same for `masks.Stratified`: one entry in each of `kept` strata of `terms` `(..., col)`, all as likely.

    E h = S - sum_s mean_s / q, Var h = sum_s var_s / q^2, with mean and variance (by its length) of stratum s.
    `terms` runs over the whole flat tensor, 0 outside a neuron's row. Not what independent masks do.
    """
    c = np.asarray(terms, np.float64)
    check_keep(kept / c.shape[-1], divide_by)
    stratum = np.arange(kept + 1)
    starts = stratum * (c.shape[-1] // kept) + stratum * (c.shape[-1] % kept) // kept
    lengths = np.diff(starts)
    means = np.add.reduceat(c, starts[:-1], axis=-1) / lengths
    away = (c - np.repeat(means, lengths, axis=-1)) ** 2
    variance = (np.add.reduceat(away, starts[:-1], axis=-1) / lengths).sum(-1)
    q = np.asarray(divide_by, np.float64)
    return Moments(mean=np.asarray(c.sum(-1) - means.sum(-1) / q), variance=np.asarray(variance / q**2))


def mean_square(signal: ArrayLike, squares: ArrayLike, *, keep: ArrayLike, divide_by: ArrayLike) -> F64:
    """E h^2 = (1 - keep/q)^2 signal + keep (1 - keep) squares / q^2, also of a layer (`layer_sums`); independent masks.

    >>> float(mean_square(9.0, 21.0, keep=0.25, divide_by=0.5))
    18.0
    """
    share, q = check_keep(keep, divide_by)
    return np.asarray((1 - share / q) ** 2 * np.asarray(signal) + share * (1 - share) / q**2 * np.asarray(squares))


def best_divisor(signal: ArrayLike, squares: ArrayLike, *, keep: ArrayLike, tau: ArrayLike = 1.0) -> F64:
    """q = keep + tau (1 - keep) squares/signal: the divisor of least mean square at tau 1, DARE's at tau 0.

    One tau for all layers makes a family of per-layer divisors with one knob, in the place of DAREx Eq. 5. Where the
    signal is 0 it is infinite (nothing is to be added), or DARE's where the squares are 0 too.

    >>> float(best_divisor(9.0, 21.0, keep=0.25))
    2.0
    """
    share, _ = check_keep(keep)
    strength = np.asarray(tau, np.float64)
    if not np.all(strength >= 0):
        raise ValueError(f"tau is 0 or more, not {strength}")
    noise, wanted = np.broadcast_arrays(np.asarray(squares, np.float64), np.asarray(signal, np.float64))
    ratio = np.divide(noise, wanted, out=np.where(noise > 0, np.inf, 0.0), where=wanted > 0)
    pull = strength * (1 - share)
    return np.asarray(share + pull * np.where(pull > 0, ratio, 0.0))  # not 0 times infinity


def least_mean_square(signal: ArrayLike, squares: ArrayLike, *, keep: ArrayLike) -> F64:
    """E h^2 at `best_divisor`: signal (1 - keep) squares / (keep signal + (1 - keep) squares); never above the signal.

    >>> float(least_mean_square(9.0, 21.0, keep=0.25))
    7.875
    """
    share, _ = check_keep(keep)
    wanted, noise = np.asarray(signal, np.float64), (1 - share) * np.asarray(squares, np.float64)
    below = share * wanted + noise
    return np.asarray(np.divide(wanted * noise, below, out=np.zeros_like(below), where=below > 0))
