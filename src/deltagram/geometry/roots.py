"""Square roots of a diagonal projected off one vector, as a diagonal plus a few dozen thin vectors."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ellipj, ellipkm1

from deltagram.arrays import F64
from deltagram.geometry.matrix import Matrix

_LOG_PRECISION = 38.0  # natural logarithm: errors near 3e-17 of the largest entry before rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class Projected:
    """`P diag(q)` with `P = I - a a^T`, `|a| = 1` and all of `a`, `q` positive: shapes (class).

    It is the solution of the margin problem (`predict`); its polar factors are the two Grams and the certificate.
    """

    a: F64
    q: F64

    def product(self) -> Matrix:
        """`P diag(q)` itself."""
        return Matrix(diagonal=self.q, left=-self.a[:, None], right=(self.a * self.q)[:, None])

    def left_root(self) -> Matrix:
        """`(P Q^2 P)^(1/2)`, the Gram on the side of the rows."""
        shifts, weights = _quadrature(self.q)
        thin, sizes = self._resolvents(shifts)
        left = np.hstack([thin * (weights * shifts / sizes), -self.a[:, None] * weights.sum()])
        return Matrix(diagonal=self.q, left=left, right=np.hstack([thin, self.a[:, None]]))

    def right_root(self) -> Matrix:
        """`(Q P Q)^(1/2)`, the Gram on the side of the columns."""
        shifts, weights = _quadrature(self.q)
        thin, sizes = self._resolvents(shifts)
        thin = self.q[:, None] * thin
        return Matrix(diagonal=self.q, left=-thin * (weights / sizes), right=thin)

    def polar(self) -> Matrix:
        """The partial isometry `V U^T` of `P Q = V S U^T`: the dual solution of the margin problem."""
        shifts, weights = _quadrature(self.q)
        thin, sizes = self._resolvents(shifts)
        return Matrix(
            diagonal=np.ones_like(self.q), left=-thin * (weights / sizes), right=self.q[:, None] * thin
        )  # fmt: skip

    def _resolvents(self, shifts: F64) -> tuple[F64, F64]:
        """`R_t a` in columns, one a shift t, with `R_t = (Q^2 + t)^(-1)`; and `a^T R_t a`."""
        thin = self.a[:, None] / (self.q[:, None] ** 2 + shifts)
        return thin, self.a @ thin


def _quadrature(q: F64) -> tuple[F64, F64]:
    """Shifts t_j and weights w_j with `sum_j w_j x / (x + t_j) = sqrt(x)` for x between the extremes of q^2.

    The integral of the square root, substituted by an elliptic function so that the rule converges geometrically:
    method 3 of Hale, Higham and Trefethen, "Computing A^alpha, log(A), and related matrix functions by contour
    integrals", SIAM J. Numer. Anal. 46 (2008). The number of points grows with the logarithm of the range only.
    """
    least, most = float(q.min()) ** 2, float(q.max()) ** 2
    points = math.ceil(_LOG_PRECISION * (math.log(most / least) + 3) / (2 * math.pi**2)) + 1
    modulus = least / most
    quarter = float(ellipkm1(modulus))
    sn, cn, dn, _ = ellipj((np.arange(points) + 0.5) * quarter / points, 1 - modulus)
    shifts = least * (sn / cn) ** 2
    weights = 2 * quarter * math.sqrt(least) / (math.pi * points) * dn / cn**2
    return np.asarray(shifts, np.float64), np.asarray(weights, np.float64)
