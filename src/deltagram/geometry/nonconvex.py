"""The cost-sensitive margin problem as it is posed, over classifiers and features: a search that knows no closed form.

Eqs. (4a) and (4b) of arXiv 2303.07608: least `||W||^2 + ||H||^2` with margins of 1, which is not convex. `predict` has
its solution, `convex` a convex program of the same value; this descends from random starts by augmented Lagrangians.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.gram import Geometry
from deltagram.geometry.matrix import Matrix
from deltagram.geometry.problem import Problem
from deltagram.seeds import key

_ROUNDS = 60  # updates of the multipliers at most
_STIFFNESS = 10.0  # of the first penalty, in sizes of the multipliers
_STIFFER = 3.0  # the penalty's growth where a round has not halved the violation
_MOST_SAMPLES = 2000
_NEAR = 1e-6  # what a search must reach at least
_FLAT = 1e-4  # a relative gradient of 1e-4, what rounding leaves of a stiff one, counts as a slack of 1e-8


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Where a search ended: W (class, dim), H (sample, dim), and each sample's class.

    `value` is `1/2 ||W||^2 + 1/2 sum mass ||h||^2`, `violation` the largest shortfall of a margin from 1, `rounds` how
    often the multipliers were updated. `spread` is the largest distance of a feature from the mean of its class, over
    the largest norm: 0 if features have collapsed.
    """

    classifiers: F64
    features: F64
    labels: np.ndarray
    counts: F64
    value: float
    violation: float
    rounds: int

    @property
    def means(self) -> F64:
        """Mean feature of each class, (class, dim)."""
        total = np.zeros_like(self.classifiers)
        np.add.at(total, self.labels, self.features)
        return total / np.bincount(self.labels)[:, None]

    @property
    def spread(self) -> float:
        """Within classes, as above."""
        off = np.linalg.norm(self.features - self.means[self.labels], axis=1)
        return float(off.max() / np.linalg.norm(self.features, axis=1).max())

    def geometry(self) -> Geometry:
        """Grams and logits of W and the class means, not centred."""
        w, m = self.classifiers, self.means
        return Geometry(
            name="margin problem, searched", classifiers=Matrix.of_vectors(w), means=Matrix.of_vectors(m),
            logits=Matrix(diagonal=np.zeros(len(w)), left=w, right=m), counts=self.counts,
            conventions={"scale": "margins of 1", "bias": "none", "centring": "none"},
        )  # fmt: skip


def margin_search(
    problem: Problem, dim: int, *, seed: int = 0, every_sample: bool = False, tolerance: float = 1e-8
) -> Found:
    """A local minimum from normal random W and features: margins of 1, and no pull from larger ones, to `tolerance`.

    With `every_sample` each sample has a feature of its own; else a class has one, which counts as often as the class
    has samples. `label_scale_y (class_scale_y w_y - class_scale_c w_c) . h >= 1` for samples of class y and all c != y;
    offsets and weights have no part in it. Raises SettingError for more than 2,000 features, for no dimension, and
    where that is not reached.
    """
    k, n = problem.classes, problem.counts
    if dim < 1:
        raise SettingError("dim", f"is {dim}", expected="1 or more")
    labels = np.repeat(np.arange(k), n.astype(np.int64)) if every_sample else np.arange(k)
    if len(labels) > _MOST_SAMPLES:
        found = f"{len(labels):,} features"
        raise SettingError("counts", found, expected=f"at most {_MOST_SAMPLES:,}", fix="take every_sample=False")
    search = _Search(problem=problem, labels=labels, mass=np.ones(len(labels)) if every_sample else n, dim=dim)
    drawn = np.random.Generator(np.random.Philox(key=key(seed, "margin search")))
    at = drawn.standard_normal((k + len(labels)) * dim) / np.sqrt(dim)
    return search.descend(at, tolerance)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    problem: Problem
    labels: np.ndarray
    mass: F64
    dim: int

    def split(self, flat: F64) -> tuple[F64, F64]:
        """W and H; the search is in W and sqrt(mass) H, in which the objective is a sphere."""
        at = self.problem.classes * self.dim
        h: F64 = flat[at:].reshape(-1, self.dim) / np.sqrt(self.mass)[:, None]
        return flat[:at].reshape(-1, self.dim), h

    def margins(self, w: F64, h: F64) -> F64:
        """(sample, class); 1 at a sample's own class, where nothing is asked."""
        scaled = h @ w.T * self.problem.class_scale
        rows = np.arange(len(h))
        found: F64 = self.problem.label_scale[self.labels][:, None] * (scaled[rows, self.labels][:, None] - scaled)
        found[rows, self.labels] = 1.0
        return found

    def value(self, flat: F64, multipliers: F64, penalty: float) -> tuple[float, F64]:
        """The augmented Lagrangian and its gradient."""
        w, h = self.split(flat)
        rows = np.arange(len(h))
        pull = np.maximum(0.0, multipliers + penalty * (1 - self.margins(w, h)))
        pull[rows, self.labels] = 0.0
        size = float(np.vdot(w, w) + self.mass @ np.einsum("nd,nd->n", h, h)) / 2
        value = size + float((pull**2 - multipliers**2).sum()) / (2 * penalty)
        by = self.problem.label_scale[self.labels][:, None]
        slope = by * pull  # minus the derivative in label_scale (own - other)
        slope[rows, self.labels] = -slope.sum(1)
        slope = slope * self.problem.class_scale
        root = np.sqrt(self.mass)[:, None]
        return value, np.concatenate([(w + slope.T @ h).ravel(), (root * h + slope @ w / root).ravel()])

    def _pull(self) -> float:
        """The size of the multipliers; a penalty far below it lets everything shrink to the saddle at zero."""
        p = self.problem
        return float(np.sqrt(self.mass.max()) / (p.class_scale.min() * p.label_scale.min()))

    def descend(self, at: F64, tolerance: float) -> Found:
        """Rounds of minimising and of updating the multipliers."""
        multipliers = np.zeros((len(self.labels), self.problem.classes))
        penalty, before = _STIFFNESS * self._pull(), np.inf
        options = {"maxiter": 3000, "maxcor": 30, "ftol": 1e-15, "gtol": 1e-9, "maxfun": 6000}
        rounds, residual, violation = 0, np.inf, np.inf
        while rounds < _ROUNDS and residual > tolerance:
            found = minimize(
                self.value, at, args=(multipliers, penalty), jac=True, method="L-BFGS-B", options=options
            )  # fmt: skip
            at, rounds = np.asarray(found.x, np.float64), rounds + 1
            short = 1 - self.margins(*self.split(at))
            violation = float(short.max())
            # a margin is met exactly, or its multiplier is zero and it is met with room to spare
            slack = float(np.abs(np.maximum(short, -multipliers / penalty)).max())
            residual = max(slack, _FLAT * float(np.linalg.norm(found.jac) / np.linalg.norm(at)))
            multipliers = np.maximum(0.0, multipliers + penalty * short)
            penalty *= _STIFFER if slack > max(before / 2, tolerance) else 1.0
            before = slack
        if not residual <= max(tolerance, _NEAR):
            fix = "start from another seed, or take more dimensions"
            raise SettingError("margin search", f"ends {residual:.2g} off margins of 1", fix=fix)
        w, h = self.split(at)
        value = float(np.vdot(w, w) + self.mass @ np.einsum("nd,nd->n", h, h)) / 2
        return Found(
            classifiers=w, features=h, labels=self.labels, counts=self.problem.counts, value=value,
            violation=violation, rounds=rounds,
        )  # fmt: skip
