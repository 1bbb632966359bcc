"""Whether a wanted Gram of prototypes is one that free features reproduce, by its copies."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.problem import check_positive

_CLOSE: Final = 1e-6  # of the norm: a wanted Gram is typed, or the product of single-precision vectors
_LEAST: Final = 1e-6  # of equal weights: a weight below is none


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What holds of a wanted Gram. `reasons` has a sentence for each thing that does not; none: it is admissible.

    `least` is the smallest eigenvalue, `rank` that of the Gram, `weights` positive ones of sum 1 that balance the
    vectors (class) or None, `off` the largest distance of a cosine from `s_c + s_c'` (best s).
    """

    least: float
    rank: int
    weights: F64 | None
    off: float
    reasons: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether copies exist that make it exact in their limit."""
        return not self.reasons


def admissible(
    gram: ArrayLike, *, dim: int | None = None, temperature: float | None = None, tolerance: float = _CLOSE
) -> Verdict:
    """Test a wanted Gram (class, class) of unit prototypes, for features without an activation, of `dim` dimensions.

    Unit diagonal, positive semidefinite, rank at most `dim`, positive weights with `sum a_c w_c = 0`, and cosines
    `s_c + s_c'`: enough for any rank and temperature (copies as in `additive.Additive`), and needed where the rank is
    k - 1. Below that rank other cosines may do at one `temperature`, as those of a square do (`matching_copies`). The
    balance is needed always, whatever the copies or the classifier.

    Raises SettingError for what is not a symmetric matrix of numbers.
    """
    g = wanted(gram, tolerance=tolerance)
    k = len(g)
    sizes, axes = np.linalg.eigh(g)
    close = tolerance * float(np.linalg.norm(g))
    rank = int((sizes > close).sum())
    shifts = shifts_of(g)
    off = float(np.abs(np.add.outer(shifts, shifts) - g)[~np.eye(k, dtype=bool)].max())
    weights = positive(axes[:, np.abs(sizes) <= close])
    reasons = []
    worst = float(np.abs(np.diag(g) - 1).max())
    if worst > close:
        reasons.append(f"a diagonal entry is {worst:.3g} from 1: prototypes are unit vectors")
    if sizes[0] < -close:
        reasons.append(f"the smallest eigenvalue is {sizes[0]:.3g}: no vectors have these cosines")
    if dim is not None and rank > dim:
        reasons.append(f"the rank is {rank}: {dim} dimensions are too few")
    if weights is None:
        reasons.append(
            "no positive weights balance the vectors to zero: the loss does not see a shift of all prototypes"
        )
    if off > close and (rank >= k - 1 or temperature is None or matching_copies(g, temperature) is None):
        known = (
            ""
            if rank >= k - 1 or temperature is not None
            else "; below rank k - 1 it depends on the temperature: give it"
        )
        reasons.append(f"a cosine is {off:.3g} from a sum s_c + s_c': no copies make these prototypes exact{known}")
    return Verdict(least=float(sizes[0]), rank=rank, weights=weights, off=off, reasons=tuple(reasons))


def matching_copies(gram: ArrayLike, temperature: float, *, tolerance: float = _CLOSE) -> F64 | None:
    """Copies of mean 1 (class) that make prototypes of this Gram the minimiser as copies grow; None if there are none.

    The condition, `sum_c' q_c' e^{G_yc' / t} w_c'` along `w_y` for every class y, is linear in q: a positive solution
    is looked for in its null space. Raises SettingError for what is not a Gram, or a temperature that is not positive.
    """
    g = wanted(gram, tolerance=tolerance)
    check_positive("temperature", temperature)
    sizes, axes = np.linalg.eigh(g)
    kept = sizes > tolerance * np.linalg.norm(g)
    vectors = axes[:, kept] * np.sqrt(sizes[kept])
    others = g - 2 * np.eye(len(g)) * np.abs(g).max()
    pull = np.exp((g - others.max(1, keepdims=True)) / temperature)  # a class's own does not turn it
    np.fill_diagonal(pull, 0.0)
    turned = vectors[None, :, :] - g[:, :, None] * vectors[:, None, :]  # (class, other, feature)
    rules = (pull[:, :, None] * turned).transpose(0, 2, 1).reshape(-1, len(g))
    _, strength, directions = np.linalg.svd(rules, full_matrices=False)
    found = positive(directions[strength <= tolerance * strength[0]].T)
    if found is None:
        return None
    copies: F64 = found * len(g)
    return copies


def wanted(gram: ArrayLike, *, tolerance: float = _CLOSE) -> F64:
    """A Gram as it is asked for: a symmetric (class, class) matrix of finite numbers, or SettingError."""
    try:
        g = np.asarray(gram, np.float64)
    except (TypeError, ValueError):
        raise SettingError("gram", "is not a matrix of numbers") from None
    if g.ndim != 2 or g.shape[0] != g.shape[1] or len(g) < 2:
        raise SettingError("gram", f"has shape {g.shape}", expected="(class, class), two or more classes")
    if not np.isfinite(g).all():
        row, col = np.argwhere(~np.isfinite(g))[0].tolist()
        raise SettingError("gram", f"has {g[row, col]} in row {row}, column {col}", expected="finite numbers")
    worst = np.abs(g - g.T)
    if worst.max() > tolerance * np.linalg.norm(g):
        row, col = np.unravel_index(int(worst.argmax()), g.shape)
        raise SettingError(
            "gram", f"has {g[row, col]:g} in row {row}, column {col} and {g[col, row]:g} in row {col}, column {row}",
            expected="a symmetric matrix",
        )  # fmt: skip
    found: F64 = (g + g.T) / 2
    return found


def shifts_of(g: F64) -> F64:
    """s with `s_c + s_c'` nearest to the entries off the diagonal, in squares."""
    k = len(g)
    rows = g.sum(1) - np.diag(g)
    if k == 2:
        half: F64 = rows / 2
        return half
    found: F64 = (rows - rows.sum() / (2 * (k - 1))) / (k - 2)
    return found


def positive(null: F64) -> F64 | None:
    """The weights of sum 1 in the span of `null` (class, any) whose smallest is largest, if that is positive."""
    k, wide = null.shape
    if not wide:
        return None
    cost = np.append(np.zeros(wide), -1.0)
    found = linprog(
        cost, A_ub=np.hstack([-null, np.ones((k, 1))]), b_ub=np.zeros(k),
        A_eq=np.append(null.sum(0), 0.0)[None, :], b_eq=[1.0], bounds=[(None, None)] * (wide + 1),
    )  # fmt: skip
    if not found.success or found.x[-1] <= _LEAST / k:
        return None
    weights: F64 = null @ found.x[:-1]
    return weights
