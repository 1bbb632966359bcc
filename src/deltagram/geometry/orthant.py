"""Non-negative unit features beside prototypes they cannot reach, as copies grow: one convex program a class."""

from typing import Final

import numpy as np
from scipy.special import logsumexp

from deltagram.arrays import F64
from deltagram.errors import SettingError

_STEPS: Final = 20_000
_CERTAIN: Final = 1e-10


def nonnegative_limit(prototypes: F64, copies: F64, *, temperature: float) -> tuple[F64, float]:
    """Features (class, feature) at the minimum of `log sum_c' q_c' e^{h.w_c'/t} - h.w_c/t`, `h >= 0`, `|h| <= 1`.

    Accelerated projected gradient. Also the largest gap to a lower bound, over classes: the linear function at h is
    least at the part of its slope that points inside. It depends on the coordinates, not on the prototypes' Gram alone.

    Raises SettingError where the minimum of a class has a norm below 1: normalised features have no such one, and what
    they do instead is not a convex program.
    """
    h = np.maximum(prototypes, 0.0)
    moved, pace = h, 1.0
    length = temperature**2 / max(1.0, float(np.linalg.norm(prototypes, 2) ** 2))
    gap = np.inf
    for _ in range(_STEPS):
        slope = _slope(moved, prototypes, copies, temperature)
        lower = np.maximum(moved - length * slope, 0.0)
        lower /= np.maximum(np.linalg.norm(lower, axis=1, keepdims=True), 1.0)
        faster = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        turn = ((moved - lower) * (lower - h)).sum() > 0  # uphill: start anew
        moved, pace = (lower, 1.0) if turn else (lower + (pace - 1) / faster * (lower - h), faster)
        h = lower
        at = _slope(h, prototypes, copies, temperature)
        gap = float(((at * h).sum(1) + np.linalg.norm(np.minimum(at, 0.0), axis=1)).max())
        if gap <= _CERTAIN:
            break
    size = np.linalg.norm(h, axis=1)
    if size.min() < 1 - 1e-6:
        at_class = int(size.argmin())
        raise SettingError(
            "design", f"features of class {at_class} that are not negative go to norm {size[at_class]:.3g}, not to 1",
            expected="prototypes with positive coordinates of their own",
            fix="nothing is known here: turn the prototypes, or use an orthogonal frame",
        )  # fmt: skip
    return h, gap


def _slope(h: F64, prototypes: F64, copies: F64, temperature: float) -> F64:
    score = h @ prototypes.T / temperature + np.log(copies)
    share = np.exp(score - logsumexp(score, axis=1, keepdims=True))
    found: F64 = (share @ prototypes - prototypes) / temperature
    return found
