"""From a wanted geometry back to a loss: the multipliers and weights that give it for these counts, and their price."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, root

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.gram import Geometry, compare
from deltagram.geometry.predict import cross_entropy, etf
from deltagram.geometry.problem import Problem
from deltagram.geometry.ridge import merges_from

_WIDEST = 12.0  # logarithm of the largest ratio of multipliers that is searched


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuning:
    """A loss for a wanted geometry: `problem` holds its parameters, `geometry` what they give as the ridge vanishes.

    `loss` names it, `reached` says how well the wish is met, `price` what it costs elsewhere; in words.
    """

    wanted: str
    loss: str
    problem: Problem
    geometry: Geometry
    reached: str
    price: str


def simplex_classifiers(counts: ArrayLike, *, kappa: float = 1.0) -> Tuning:
    """LDT with `label_scale = kappa sqrt(n_c)` and weights `1 / n_c`: simplex classifiers at every ridge below kappa.

    There logits are `alpha (I - 1 1^T / k)` with `alpha = log(k kappa / ridge - k + 1) / kappa`, whatever the counts:
    the class means have the simplex' angles and the norms `n_c^(-1/2)`. Without the weights it is a limit only.
    """
    if not (np.isfinite(kappa) and kappa > 0):
        raise SettingError("kappa", f"{kappa:g}", expected="a positive number")
    n = Problem.of(counts).counts
    problem = Problem.of(counts, label_scale=kappa * np.sqrt(n), weight=1 / n)
    geometry = _limit(problem, "LDT sqrt(n), weights 1/n")
    far = compare(geometry, etf(len(n)))
    return Tuning(
        wanted="simplex", loss="LDT", problem=problem, geometry=geometry,
        reached=f"classifiers are a simplex at every ridge below {kappa:g} (distance {_rounded(far.classifiers)}); "
        "class means have its angles",
        price="class means shrink with counts: norms n^(-1/2), largest to smallest "
        f"{_spread(geometry.mean_norms()):.3g}; from a ridge of {kappa:g} on everything is zero",
    )  # fmt: skip


def aligned(counts: ArrayLike) -> Tuning:
    """CDT with `class_scale` in proportion to `sqrt(n_c)`: every classifier points along its class mean.

    Section 4 of arXiv 2303.07608. The classifiers are then `I - a a^T` up to scale, `a_c` in proportion to
    `n_c^(-1/2)`: not a simplex unless counts are equal.
    """
    n = Problem.of(counts).counts
    scale = np.sqrt(n) * len(n) / np.sqrt(n).sum()
    problem = Problem.of(counts, class_scale=scale)
    geometry = _limit(problem, "CDT sqrt(n)")
    return Tuning(
        wanted="alignment", loss="CDT", problem=problem, geometry=geometry,
        reached=f"cosine of classifier and class mean at least {geometry.alignment().min():.6f}",
        price=_distance(geometry) + _threshold(problem),
    )  # fmt: skip


def equal_norms(counts: ArrayLike) -> Tuning:
    """CDT multipliers, one for each count, that give all classifiers one norm: found numerically.

    Raises SettingError where there are none within the range searched (a ratio of e^12).
    """
    problem, groups, member = _grouped(counts)

    def off(log_scale: F64) -> F64:
        return np.diff(np.log(_cdt(problem, log_scale, member).classifier_norms()[groups]))

    found = root(lambda free: off(np.append(free, 0.0)), np.log(np.sqrt(problem.counts[groups]))[:-1], tol=1e-13)
    scale = np.append(found.x, 0.0)
    geometry = _cdt(problem, scale, member)
    spread = _spread(geometry.classifier_norms())
    if spread > 1 + 1e-6 or np.ptp(scale) > _WIDEST:
        raise SettingError("equal_norms", "no multipliers were found for these counts", fix="use simplex_classifiers")
    return Tuning(
        wanted="equal classifier norms", loss="CDT", problem=_with(problem, scale, member), geometry=geometry,
        reached=f"largest to smallest classifier norm {spread:.6f}",
        price=_distance(geometry) + _threshold(_with(problem, scale, member)),
    )  # fmt: skip


def equal_angles(counts: ArrayLike) -> Tuning:
    """CDT multipliers under which two majority classifiers stand at the angle of two minority ones.

    For two sizes of classes (STEP), two or more of each; with as many of one as of the other the ratio of multipliers
    is `R^(1/6)`. Raises SettingError for other counts.
    """
    problem, groups, member = _grouped(counts)
    if len(groups) != 2 or np.bincount(member).min() < 2:
        raise SettingError("counts", "are not two sizes of two or more classes", expected="STEP imbalance")
    pairs = [np.flatnonzero(member == g)[:2] for g in range(2)]

    def off(log_ratio: float) -> float:
        geometry = _cdt(problem, np.array([0.0, log_ratio]), member)
        one, other = (float(geometry.classifier_cosines(p[:1], p[1:])[0, 0]) for p in pairs)
        return one - other

    scale = np.array([0.0, _crossing(off)])
    geometry = _cdt(problem, scale, member)
    return Tuning(
        wanted="equal classifier angles", loss="CDT", problem=_with(problem, scale, member), geometry=geometry,
        reached=f"cosines in either group {float(geometry.classifier_cosines(pairs[0][:1], pairs[0][1:])[0, 0]):.6f}",
        price=f"classifier norms differ, largest to smallest {_spread(geometry.classifier_norms()):.3g}; "
        + _distance(geometry) + _threshold(_with(problem, scale, member)),
    )  # fmt: skip


def _crossing(off: Callable[[float], float]) -> float:
    grid = np.linspace(-_WIDEST, _WIDEST, 241)
    values = np.array([off(at) for at in grid])
    at = np.flatnonzero(np.sign(values[:-1]) != np.sign(values[1:]))
    if not len(at):
        raise SettingError("equal_angles", "no multipliers were found for these counts", fix="use simplex_classifiers")
    return float(brentq(off, grid[at[0]], grid[at[0] + 1], xtol=1e-14))


def _grouped(counts: ArrayLike) -> tuple[Problem, np.ndarray, np.ndarray]:
    """The problem, one class of each count (rising), and each class's group."""
    problem = Problem.of(counts)
    _, first, member = np.unique(problem.counts, return_index=True, return_inverse=True)
    return problem, first, member.reshape(-1)


def _with(problem: Problem, log_scale: F64, member: np.ndarray) -> Problem:
    scale = np.exp(log_scale)[member]
    return Problem.of(problem.counts, class_scale=scale * len(scale) / scale.sum())


def _cdt(problem: Problem, log_scale: F64, member: np.ndarray) -> Geometry:
    return _limit(_with(problem, log_scale, member), "CDT")


def _limit(problem: Problem, name: str) -> Geometry:
    return cross_entropy(
        problem.counts, class_scale=problem.class_scale, label_scale=problem.label_scale, name=name
    )  # fmt: skip


def _spread(norms: F64) -> float:
    return float(norms.max() / norms.min())


def _distance(geometry: Geometry) -> str:
    far = compare(geometry, etf(geometry.classes))
    return f"classifiers are {far.classifiers or 0.0:.3f} from a simplex, class means {far.means:.3f}"


def _threshold(problem: Problem) -> str:
    """How the merging of the smallest classes moves: multipliers below one lower it."""
    plain = merges_from(Problem.of(problem.counts))
    if not np.isfinite(plain).any():
        return ""
    at = int(np.nanargmin(plain))
    return (
        f"; classes of {problem.counts[at]:g} samples merge from a ridge of {merges_from(problem)[at]:.3g} on "
        f"(cross-entropy: {plain[at]:.3g})"
    )


def _rounded(value: float | None) -> str:
    return f"{0.0 if value is None or value < 1e-9 else value:.3g}"


TUNINGS: Final[Mapping[str, Callable[[ArrayLike], Tuning]]] = {
    "simplex": simplex_classifiers,
    "alignment": aligned,
    "equal-norms": equal_norms,
    "equal-angles": equal_angles,
}
