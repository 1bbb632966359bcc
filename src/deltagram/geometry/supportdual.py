"""What shows that a solution of the margin program is one, and the only one: dual points, the proxy's, uniqueness."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.geometry.supportprogram import SupportProgram

_RANK = 1e-9  # of the largest singular value, in a matrix without noise
_SIGN = 1e-12  # of the largest entry: an entry of a polar factor above it is positive
_FACE = 1e-3  # a singular value of the dual point this close to 1 counts as 1: too many only make the test harder
_PULLS = 1e-5  # of the largest multiplier: what is less counts as none, which makes the test harder too
_SLACK = 1e-3  # a margin this much above 1 is not tight
_HOLDS = 1e-6  # the least share of a move that constraints must see, for there to be none
_FREE = 1e-10  # the share that rounding makes of none
_MOST = 500  # dimensions of the face that are looked at
_LANCZOS = 600  # products at most


@dataclass(frozen=True, kw_only=True)
class Uniqueness:
    """Whether the least norm is attained once: "yes" and "no" are shown, "unknown" says that neither test decides.

    `why` is the reason in words; `seen` the least share of any move along the optimal face that its constraints see.
    """

    unique: Literal["yes", "no", "unknown"]
    why: str
    seen: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ProxyCertificate:
    """Whether the centred supports solve the margin program themselves.

    `value` is their norm, `bound` a lower bound of the least one from their polar factor, whose largest entry off
    supports is `largest` (relative to its largest entry). `exact`: "yes" where none is positive; "no" where one is and
    the rank is the most there can be, so that there is no other subgradient; else "unknown". `strict`: all negative
    at the most rank, and the solution is the only one.
    """

    value: float
    bound: float
    largest: float
    exact: Literal["yes", "no", "unknown"]
    strict: bool

    @property
    def excess(self) -> float:
        """By which share the proxy's norm can exceed the least one, at most."""
        return max(0.0, self.value / self.bound - 1) if self.bound > 0 else float("inf")


def proxy_certificate(labels: LabelMatrix) -> ProxyCertificate:
    """The certificate of the centred supports of these labels. Raises as `SupportProgram.of`.

    >>> proxy_certificate(LabelMatrix.one_hot([5, 2, 1])).exact
    'yes'
    """
    return certify_proxy(SupportProgram.of(labels))[0]


def certify_proxy(program: SupportProgram) -> tuple[ProxyCertificate, F64]:
    """The certificate, and the dual point of the polar factor (group, support)."""
    x = program.proxy()
    u, s, v = np.linalg.svd(x, full_matrices=False)
    kept = s > _RANK * s[0]
    polar = u[:, kept] @ v[kept]
    off = float(polar[~program.mask].max() / np.abs(polar).max())
    full = int(kept.sum()) == min(len(program.words) - 1, len(program.contexts))
    exact: Literal["yes", "no", "unknown"] = "yes" if off <= _SIGN else ("no" if full else "unknown")
    bound, point = program.dual(polar)
    found = ProxyCertificate(
        value=float(s.sum()), bound=min(bound, float(s.sum())), largest=off, exact=exact, strict=full and off < -_SIGN
    )
    return found, point


def uniqueness(program: SupportProgram, x: F64, point: F64) -> Uniqueness:
    """Whether the solution X with the dual point (both (group, support)) is the only one.

    Any other is `U M V^T`, with U and V the singular vectors of the dual point of singular value 1 and M symmetric, and
    meets the margins whose multiplier is positive exactly. If those margins and the supports see every M, there is
    none. If they do not, margins are strictly slack wherever they have no multiplier, and X spans all of the face,
    then there are others.
    """
    u, s, v = np.linalg.svd(point, full_matrices=False)
    face = s >= s[0] * (1 - _FACE)
    size = int(face.sum())
    if size > _MOST:
        return Uniqueness(unique="unknown", why=f"the optimal face has {size} dimensions, more than are looked at")
    pull = np.where(program.mask, 0.0, -point)
    tight = program.mask | (pull > _PULLS * pull.max())
    seen = _least_seen(program, u[:, face], v[face], tight)
    if seen > _HOLDS:
        return Uniqueness(
            unique="yes", why="its multipliers and supports leave no move along the optimal face", seen=seen
        )
    sizes = np.linalg.svd(x, compute_uv=False)
    spans = int((sizes > _SLACK * sizes[0]).sum()) == size
    logits = x / program.by_word / program.by_context
    level = np.where(program.mask, logits, -np.inf).max(0)
    loose = bool((level - logits > 1 + _SLACK)[~tight].all())
    if seen < _FREE and spans and loose:
        return Uniqueness(unique="no", why="a move along the optimal face meets every margin", seen=seen)
    return Uniqueness(
        unique="unknown", why="the multipliers found do not decide (no strict complementarity)", seen=seen
    )


def _least_seen(program: SupportProgram, u: F64, v: F64, tight: NDArray[np.bool_]) -> float:
    """The least of `|constrained part of U M V^T|^2` over symmetric M of norm 1; u (group, s), v (s, support)."""
    mass = program.words @ tight
    size = u.shape[1]

    def unseen(flat: F64) -> F64:
        m = flat.reshape(size, size)
        moved = u @ (m + m.T) @ v / 2
        level = (program.by_word.T @ np.where(tight, moved, 0.0)) / mass
        free = np.where(tight, program.by_word * level, moved)
        back = u.T @ free @ v.T
        out: F64 = ((back + back.T) / 2).ravel()
        return out

    if size <= 12:  # few enough to look at all
        every = np.stack([unseen(row) for row in np.eye(size * size)])
        return float(max(0.0, 1 - np.linalg.eigvalsh((every + every.T) / 2)[-1]))
    operator = LinearOperator((size * size, size * size), matvec=unseen, dtype=np.float64)
    start = np.eye(size).ravel() + 1e-2 * np.cos(np.arange(size * size))
    most = eigsh(operator, k=1, which="LA", v0=start, tol=1e-4, maxiter=_LANCZOS, return_eigenvectors=False)
    return float(max(0.0, 1 - most[0]))
