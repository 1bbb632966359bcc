"""Grams of prototypes that free features take on as copies grow: those with additive cosines and balancing weights.

In the limit of many copies a class minimises `log sum_c' q_c' e^{h.w_c'/t} - h.w_c/t` over unit vectors; `h = w_c` for
every class if and only if `sum_c' q_c' e^{w_c.w_c'/t} w_c'` lies along `w_c`. With cosines `s_c + s_c'` and positive
weights `sum_c a_c w_c = 0` copies `q_c ~ a_c e^{-s_c/t}` do that, and where the w span k - 1 dimensions nothing else
does. There is exactly one such Gram for each point a of the open simplex with entries below one half:

`s_c = -(a_c + v) / (1 - 2 a_c)`, `v = -sum a^2 / (1 - 2a) / (1 + sum a / (1 - 2a))`.

It is positive semidefinite because `G = diag(1 - 2s) + s 1^T + 1 s^T` has one eigenvalue below those of the positive
diagonal at most, and that is the zero of a.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.problem import check_positive


@dataclass(frozen=True, kw_only=True, eq=False)
class Additive:
    """The Gram of these weights (class): positive, of sum 1, below one half (two classes: one half each)."""

    weights: F64

    def __post_init__(self) -> None:
        a = self.weights
        k = len(a)
        fine = k > 1 and np.isfinite(a).all() and (a > 0).all() and abs(a.sum() - 1) < 1e-9 * k
        if not (fine and (a.max() < 0.5 or k == 2)):
            raise SettingError("weights", "make no design", expected="positive numbers of sum 1, each below one half")
        if k == 2 and abs(a[0] - 0.5) > 1e-9:
            raise SettingError("weights", f"{a[0]:g} and {a[1]:g}", expected="one half each for two classes")

    @cached_property
    def shifts(self) -> F64:
        """s_c, (class): the cosine of two classes is the sum of theirs."""
        a = self.weights
        if len(a) == 2:
            return np.full(2, -0.5)
        over = 1 / (1 - 2 * a)
        v = -float(a**2 @ over) / (1 + float(a @ over))
        found: F64 = -(a + v) * over
        return found

    def gram(self) -> F64:
        """All cosines, (class, class)."""
        found: F64 = np.add.outer(self.shifts, self.shifts)
        np.fill_diagonal(found, 1.0)
        return found

    def copies(self, temperature: float, *, mean: float = 1.0) -> F64:
        """Copies a class, in proportion to `a_c e^{-s_c / temperature}` and of this mean, (class); need not be whole.

        Raises SettingError for a temperature or a mean that is not positive.
        """
        check_positive("temperature", temperature)
        check_positive("mean", mean)
        log = np.log(self.weights) - self.shifts / temperature
        ratio = np.exp(log - log.max())
        found: F64 = ratio * (mean / ratio.mean())
        return found
