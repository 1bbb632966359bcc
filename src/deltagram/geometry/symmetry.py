"""Sets of vectors, one a class: their frame (NC2) and how two sets match (NC3), from feature-by-feature products alone.

With V (class, feature): |V V^T| = |V^T V|, <V V^T, I> = tr V^T V, 1^T V V^T 1 = |sum V|^2, and |W M^T|^2 =
<W^T W, M^T M> (Frobenius): beyond `THIN` classes no class-by-class matrix is formed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deltagram.arrays import F32, F64
from deltagram.geometry.collapse import THIN
from deltagram.geometry.matrix import Matrix, distance
from deltagram.geometry.samples import I64

PAIRS = 8192  # classes up to which every pair is looked at, so that extremes are known
_BLOCK = 2048  # classes at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """The rows `there` of `rows` (class, feature), less `centre` (feature), in float64, a block at a time."""

    rows: F32 | F64
    there: I64
    centre: F64

    def __len__(self) -> int:
        return len(self.there)

    def block(self, which: slice) -> F64:
        """Some of the vectors, in float64."""
        whole = len(self.there) == len(self.rows)  # a slice is no copy
        found: F64 = (self.rows[which] if whole else self.rows[self.there[which]]) - self.centre
        return found

    def blocks(self) -> Iterator[tuple[slice, F64]]:
        """All of them, a block at a time."""
        for start in range(0, len(self), _BLOCK):
            which = slice(start, min(start + _BLOCK, len(self)))
            yield which, self.block(which)

    def all(self) -> F64:
        """All of them, in an array of their own."""
        return self.block(slice(None))

    @cached_property
    def gram(self) -> F64:
        """V^T V (feature, feature)."""
        found = np.zeros((self.rows.shape[1],) * 2)
        for _, part in self.blocks():
            found += part.T @ part
        return found

    @cached_property
    def norms(self) -> F64:
        """|v_c|, (class)."""
        return np.concatenate([np.sqrt(np.einsum("cd,cd->c", part, part)) for _, part in self.blocks()])

    def directions(self) -> Iterator[tuple[slice, F64]]:
        """v_c / |v_c|, a block at a time; zero for a zero vector."""
        over = np.divide(1.0, self.norms, out=np.zeros(len(self)), where=self.norms > 0)
        for which, part in self.blocks():
            yield which, np.multiply(part, over[which, None], out=part)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """How symmetric one set of vectors is (NC2).

    `norm_cv` is the standard deviation of the norms over their mean. Cosines are over pairs of classes; the extremes
    are None beyond `PAIRS` classes, where pairs are only summed. `equiangularity` is the root mean square of the
    cosine + 1/(k-1), `etf_distance` the distance of the normalised Gram from that of the simplex frame: both are 0
    for a simplex equiangular tight frame.
    """

    norm_mean: float
    norm_cv: float
    cosine_mean: float
    cosine_std: float
    cosine_min: float | None
    cosine_max: float | None
    equiangularity: float
    etf_distance: float


def frame(vectors: Vectors, etf: Matrix) -> Frame:
    """The frame of vectors, beside the Gram of a simplex frame of as many classes."""
    sizes, aim = vectors.norms, -1 / (len(vectors) - 1)
    mean, square, low, high = (_pairs if len(vectors) <= PAIRS else _summed)(vectors, aim)
    return Frame(
        norm_mean=float(sizes.mean()), norm_cv=float(sizes.std() / sizes.mean()) if sizes.any() else math.nan,
        cosine_mean=mean + aim, cosine_std=math.sqrt(max(0.0, square - mean**2)), cosine_min=low, cosine_max=high,
        equiangularity=math.sqrt(square), etf_distance=apart(vectors, vectors, etf),
    )  # fmt: skip


_Cosines = tuple[float, float, float | None, float | None]


def _pairs(vectors: Vectors, aim: float) -> _Cosines:
    """Mean and mean square of cosine - `aim`, and the extremes of the cosine, over pairs without a zero vector."""
    parts = [part[vectors.norms[which] > 0] for which, part in vectors.directions()]
    total = square = 0.0
    count, low, high = 0, math.inf, -math.inf
    for number, part in enumerate(parts):
        for other in parts[number:]:
            found = part @ other.T
            found = found[np.triu_indices(len(part), 1)] if other is part else found.reshape(-1)
            if found.size:
                low, high = min(low, float(found.min())), max(high, float(found.max()))
                found -= aim
                count, total, square = count + found.size, total + float(found.sum()), square + float(found @ found)
    return (total / count, square / count, low, high) if count else (math.nan, math.nan, None, None)


def _summed(vectors: Vectors, aim: float) -> _Cosines:
    """The same without extremes, from the sum of directions and the Gram of directions."""
    gram, total = np.zeros_like(vectors.gram), np.zeros(len(vectors.gram))
    for _, part in vectors.directions():
        gram += part.T @ part
        total += part.sum(0)
    many = int((vectors.norms > 0).sum())
    count = many * (many - 1)
    first, second = (float(total @ total) - many) / count, (float(np.vdot(gram, gram)) - many) / count
    return first - aim, max(0.0, second - 2 * aim * first + aim**2), None, None


def apart(left: Vectors, right: Vectors, target: Matrix) -> float:
    """Distance of L R^T from `target`, both divided by their norms: 0 for one shape, sqrt 2 for orthogonal ones.

    With left = right of a Gram, else of logits. Beyond `THIN` classes as sqrt(2 - 2 cosine), which cannot tell
    distances under 2e-8 from 0. NaN where one is zero.
    """
    if len(left) <= THIN:
        return distance(Matrix(diagonal=np.zeros(len(left)), left=left.all(), right=right.all()), target)
    size = math.sqrt(max(0.0, float(np.vdot(left.gram, right.gram))))
    first, second = (np.zeros((len(v.gram), target.left.shape[1])) for v in (left, right))
    inner = 0.0
    for (which, part), (_, other) in _together(left, right):
        inner += float(target.diagonal[which] @ np.einsum("cd,cd->c", part, other))
        first += part.T @ target.left[which]
        second += other.T @ target.right[which]
    return _from_cosine(inner + float(np.vdot(first, second)), size, target.norm())


_Block = tuple[slice, F64]


def _together(one: Vectors, other: Vectors) -> Iterator[tuple[_Block, _Block]]:
    """Blocks of both, side by side."""
    if one is other:
        return ((block, block) for block in one.blocks())
    return zip(one.blocks(), other.blocks(), strict=True)


def grams_apart(one: Vectors, other: Vectors) -> float:
    """Distance between the normalised Grams of two sets of vectors."""
    if len(one) <= THIN:
        return distance(Matrix.of_vectors(one.all()), Matrix.of_vectors(other.all()))
    crossed = np.zeros((len(one.gram), len(other.gram)))
    for (_, part), (_, theirs) in _together(one, other):
        crossed += part.T @ theirs
    sizes = (float(np.linalg.norm(v.gram)) for v in (one, other))
    return _from_cosine(float(np.vdot(crossed, crossed)), *sizes)


def _from_cosine(inner: float, one: float, other: float) -> float:
    return math.sqrt(max(0.0, 2 - 2 * inner / (one * other))) if one and other else math.nan


def self_duality(one: Vectors, other: Vectors) -> float:
    """|| W/||W|| - M/||M|| || in Frobenius norms (NC3): 0 where classifiers are the means up to one scale."""
    sizes = [float(np.linalg.norm(v.norms)) for v in (one, other)]
    if not all(sizes):
        return math.nan
    total = 0.0
    for (_, w), (_, m) in _together(one, other):
        off = w / sizes[0] - m / sizes[1]
        total += float(np.vdot(off, off))
    return math.sqrt(total)


def alignment(one: Vectors, other: Vectors) -> F64:
    """Cosine of each classifier with its own class mean, (class); NaN where one is zero."""
    own = np.concatenate([np.einsum("cd,cd->c", w, m) for (_, w), (_, m) in _together(one, other)])
    with np.errstate(divide="ignore", invalid="ignore"):
        found: F64 = own / (one.norms * other.norms)
    return found


def group_cosine(vectors: Vectors, chosen: I64) -> float:
    """Mean cosine over pairs of some of the vectors, from their directions' sum; NaN for fewer than two."""
    total = np.zeros(vectors.rows.shape[1])
    member = np.zeros(len(vectors), bool)
    member[chosen] = vectors.norms[chosen] > 0
    for which, part in vectors.directions():
        total += part[member[which]].sum(0)
    many = int(member.sum())
    return (float(total @ total) - many) / (many * (many - 1)) if many > 1 else math.nan
