"""The cost-sensitive margin problem as it is posed, over classifiers and features: a search that knows no closed form.

Eqs. (4a) and (4b) of arXiv 2303.07608: least `||W||^2 + ||H||^2` with margins of 1, which is not convex. `predict` has
its solution, `convex` a convex program of the same value; this descends from random starts by augmented Lagrangians.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, minres

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.gram import Geometry
from deltagram.geometry.matrix import Matrix
from deltagram.geometry.problem import Problem
from deltagram.seeds import key

_STIFFEST = 1000.0  # of the last one
_NEWTON = 40  # steps a round at most
_SHARES = 0.5 ** np.arange(8)  # of a step that are tried
_SMALL = 1e-10  # a relative gradient that needs no further step
_ROUNDS = 60  # updates of the multipliers at most
_STIFFNESS = 10.0  # of the first penalty, in sizes of the multipliers
_STIFFER = 3.0  # the penalty's growth where a round has not halved the violation
_MOST_SAMPLES = 2000
_NEAR = 1e-6  # what a search must reach at least
_FLAT = 1e-2  # a relative gradient of 1e-6 counts as a slack of 1e-8


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

    def value(self, flat: F64, multipliers: F64, penalty: F64) -> tuple[float, F64]:
        """The augmented Lagrangian and its gradient."""
        w, h = self.split(flat)
        pull = self.pull(flat, multipliers, penalty)
        value = float(np.vdot(flat, flat)) / 2 + float(((pull**2 - multipliers**2) / penalty).sum()) / 2
        slope, root = self.slope(pull), np.sqrt(self.mass)[:, None]
        return value, np.concatenate([(w + slope.T @ h).ravel(), (root * h + slope @ w / root).ravel()])

    def pull(self, flat: F64, multipliers: F64, penalty: F64) -> F64:
        """What each margin pulls with, (sample, class)."""
        found = np.maximum(0.0, multipliers + penalty * (1 - self.margins(*self.split(flat))))
        found[np.arange(len(self.labels)), self.labels] = 0.0
        return found

    def slope(self, pull: F64) -> F64:
        """The derivative in the logits that these pulls make, (sample, class)."""
        found = self.problem.label_scale[self.labels][:, None] * pull
        found[np.arange(len(self.labels)), self.labels] = -found.sum(1)
        scaled: F64 = found * self.problem.class_scale
        return scaled

    def curvature(self, flat: F64, multipliers: F64, penalty: F64) -> LinearOperator:
        """The Hessian there, of the margins that pull."""
        (w, h), root = self.split(flat), np.sqrt(self.mass)[:, None]
        pull = self.pull(flat, multipliers, penalty)
        slope, active, own = self.slope(pull), pull > 0, np.arange(len(h))
        scale, by = self.problem.class_scale, self.problem.label_scale[self.labels][:, None]

        def times(step: F64) -> F64:
            dw, dh = self.split(step.ravel())
            logits = (dh @ w.T + h @ dw.T) * scale
            moved = self.slope(-penalty * active * by * (logits[own, self.labels][:, None] - logits))
            return np.concatenate([
                (dw + moved.T @ h + slope.T @ dh).ravel(), (root * dh + (moved @ w + slope @ dw) / root).ravel()
            ])  # fmt: skip

        return LinearOperator((flat.size, flat.size), matvec=times, dtype=np.float64)

    def minimum(self, at: F64, multipliers: F64, penalty: F64) -> tuple[F64, F64]:
        """The least of the augmented Lagrangian near `at`, and its gradient: quasi-Newton, then Newton steps."""
        options = {"maxiter": 3000, "maxcor": 30, "ftol": 1e-13, "gtol": 1e-9, "maxfun": 6000}
        found = minimize(self.value, at, args=(multipliers, penalty), jac=True, method="L-BFGS-B", options=options)
        at, gradient = np.asarray(found.x, np.float64), np.asarray(found.jac, np.float64)
        for _ in range(_NEWTON):
            if np.linalg.norm(gradient) <= _SMALL * np.linalg.norm(at):
                break
            step = minres(self.curvature(at, multipliers, penalty), -gradient, rtol=1e-3, maxiter=1000)[0]
            for share in _SHARES:  # margins begin and cease to pull on the way
                there = self.value(at + share * step, multipliers, penalty)[1]
                if np.linalg.norm(there) < (1 - share / 4) * np.linalg.norm(gradient):
                    break
            else:
                break
            at, gradient = at + share * step, there
        return at, gradient

    def size(self) -> F64:
        """The size of each multiplier, (sample, class); penalties far below let all shrink to the saddle at zero."""
        by = np.sqrt(self.mass) / self.problem.label_scale[self.labels]
        found: F64 = by[:, None] / self.problem.class_scale
        return found

    def descend(self, at: F64, tolerance: float) -> Found:
        """Rounds of minimising and of updating the multipliers."""
        multipliers = np.zeros((len(self.labels), self.problem.classes))
        size, stiffness, before = self.size(), _STIFFNESS, np.inf
        rounds, residual, violation = 0, np.inf, np.inf
        while rounds < _ROUNDS and residual > tolerance:
            penalty = stiffness * size
            at, gradient = self.minimum(at, multipliers, penalty)
            rounds += 1
            short = 1 - self.margins(*self.split(at))
            violation = float(short.max())
            # a margin is met exactly, or its multiplier is zero and it is met with room to spare
            slack = float(np.abs(np.maximum(short, -multipliers / penalty)).max())
            residual = max(slack, _FLAT * float(np.linalg.norm(gradient) / np.linalg.norm(at)))
            multipliers = np.maximum(0.0, multipliers + penalty * short)
            if slack > max(before / 2, tolerance):
                stiffness = min(stiffness * _STIFFER, _STIFFEST)
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
