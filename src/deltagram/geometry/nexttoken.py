"""What the supports of next tokens say in closed form: log-odds within supports, projections, the centred supports.

Contexts are columns j with support S_j of k_j of V words; F is the space of logits that differ within supports alone,
spanned by `(e_z - e_z') e_j^T` with z, z' in S_j. As the ridge of free embeddings vanishes, logits tend to
`L_in + R L_mm`: L_in in F is the log-odds of probabilities, L_mm in the complement of F is the least nuclear norm with
margins of 1 (`supportsvm`), and the centred supports are its proxy (arXiv 2408.15417).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError

Chosen = slice | NDArray[np.intp]
ALL = slice(None)


def _column_means(values: F64, indptr: NDArray[Any]) -> F64:
    """The mean of each column's stored values, one for each of them."""
    sizes = np.diff(indptr)
    found: F64 = np.repeat(np.add.reduceat(values, indptr[:-1]) / sizes, sizes)
    return found


def in_support(labels: LabelMatrix) -> sparse.csc_array:
    """L_in (word, context), sparse: `log P_zj - mean over z' in S_j of log P_z'j` on supports, zero elsewhere.

    The least-norm logits whose differences within each support are the log-odds.

    >>> in_support(LabelMatrix.of_counts([[1, 3], [1, 0], [0, 1]])).toarray().round(4)
    array([[ 0.    ,  0.5493],
           [ 0.    ,  0.    ],
           [ 0.    , -0.5493]])
    """
    p = labels.probabilities
    log = np.log(p.data)
    return sparse.csc_array((log - _column_means(log, p.indptr), p.indices, p.indptr), shape=p.shape)


def within_supports(labels: LabelMatrix, logits: ArrayLike) -> sparse.csc_array:
    """The part of logits (word, context) in F, sparse: less the mean over the support there, zero elsewhere."""
    p, given = labels.probabilities, np.asarray(logits, np.float64)
    if given.shape != p.shape:
        raise SettingError("logits", f"have shape {given.shape}", expected=f"{p.shape}, (word, context)")
    at = given[p.indices, np.repeat(np.arange(p.shape[1]), np.diff(p.indptr))]
    return sparse.csc_array((at - _column_means(at, p.indptr), p.indices, p.indptr), shape=p.shape)


def beyond_supports(labels: LabelMatrix, logits: ArrayLike) -> F64:
    """The rest, (word, context): what is stored on a support becomes its mean."""
    found: F64 = np.asarray(logits, np.float64) - within_supports(labels, logits)
    return found


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Squared norms over contexts: of the part of logits in F, of the rest (columns centred), and of the way to L_in.

    Of any contexts; two of them add up.
    """

    within: float
    beyond: float
    from_log_odds: float
    log_odds: float

    def __add__(self, other: "Shares") -> "Shares":
        return Shares(
            within=self.within + other.within, beyond=self.beyond + other.beyond,
            from_log_odds=self.from_log_odds + other.from_log_odds, log_odds=self.log_odds + other.log_odds,
        )  # fmt: skip

    @property
    def ratio(self) -> float:
        """`|P_F L| / |P_F_perp L|`, which falls as training goes on."""
        return float(np.sqrt(self.within / self.beyond)) if self.beyond else float("inf")


def shares(labels: LabelMatrix, blocks: Iterable[ArrayLike]) -> Shares:
    """The shares of logits that come in blocks (word, some contexts), one after the other.

    Raises SettingError for blocks that do not make up all contexts.
    """
    found, start = Shares(within=0.0, beyond=0.0, from_log_odds=0.0, log_odds=0.0), 0
    for some, logits in _in_turn(labels, blocks):
        part = within_supports(some, logits)
        rest = logits - part
        wanted = in_support(some)
        found += Shares(
            within=float(part.data @ part.data), beyond=float(np.square(rest - rest.mean(0)).sum()),
            from_log_odds=float(np.square(part.data - wanted.data).sum()), log_odds=float(wanted.data @ wanted.data),
        )  # fmt: skip
        start += logits.shape[1]
    if start != labels.shape[1]:
        raise SettingError("blocks", f"hold {start} contexts", expected=f"{labels.shape[1]}")
    return found


def _in_turn(labels: LabelMatrix, blocks: Iterable[ArrayLike]) -> Iterator[tuple[LabelMatrix, F64]]:
    start = 0
    for block in blocks:
        logits = np.asarray(block, np.float64)
        if logits.ndim != 2 or start + logits.shape[1] > labels.shape[1]:
            raise SettingError("blocks", f"hold {logits.shape} after {start} contexts", expected=f"{labels.shape}")
        yield labels.taken(np.arange(start, start + logits.shape[1])), logits
        start += logits.shape[1]


def switched_on(labels: LabelMatrix, ridge: float) -> F64:
    """The margin that each context has at a ridge, to leading order, (context): `max(0, log(weight / ridge))`.

    A context that is rarer than the ridge is not told apart from nothing yet.
    """
    if not (np.isfinite(ridge) and ridge > 0):
        raise SettingError("ridge", f"{ridge:g}", expected="a positive number; for the limit of zero, give none")
    found: F64 = np.maximum(0.0, np.log(labels.weights / ridge))
    return found


def centred_operator(matrix: sparse.csc_array, scale: ArrayLike = 1.0) -> LinearOperator:
    """`(I - 1 1^T / V) matrix diag(scale)` (word, context) as an operator: two sparse products, never formed."""
    rows, columns = matrix.shape
    by = np.broadcast_to(np.asarray(scale, np.float64), columns)
    across = sparse.csr_array(matrix.T)  # a product by rows is the faster one either way
    along = sparse.csr_array(matrix)
    mean = np.asarray(matrix.sum(axis=0)).ravel() / rows

    def times(x: F64) -> F64:
        given = by * x.ravel()
        out: F64 = along @ given - mean @ given
        return out

    def back(y: F64) -> F64:
        given = y.ravel()
        out: F64 = by * (across @ given - mean * given.sum())
        return out

    return LinearOperator((rows, columns), matvec=times, rmatvec=back, dtype=np.float64)


def centred_support(labels: LabelMatrix, *, ridge: float | None = None) -> LinearOperator:
    """The proxy `S~ = (I - 1 1^T / V) S` of L_mm, (word, context), as an operator.

    With a ridge its form of finite ridge, `S~ diag(max(0, log(weight / ridge)))`.
    """
    return centred_operator(labels.support, 1.0 if ridge is None else switched_on(labels, ridge))


def centred_gradient(labels: LabelMatrix) -> LinearOperator:
    """`(I - 1 1^T / V) P diag(weights)`: what embeddings grow along first; they stay zero at its norm as ridge."""
    return centred_operator(labels.probabilities, labels.weights)


def centred_dense(labels: LabelMatrix, *, ridge: float | None = None) -> F64:
    """`centred_support` with all its entries: `(V - k_j) / V` on supports and `-k_j / V` off them, times the margin."""
    found: F64 = labels.support.toarray() - labels.sizes / labels.shape[0]
    return found if ridge is None else found * switched_on(labels, ridge)


def context_cosines(labels: LabelMatrix, rows: Chosen = ALL, cols: Chosen = ALL) -> F64:
    """Cosines of the columns of the centred supports, at these contexts; NaN for a full support.

    `(|S_i & S_j| - k_i k_j / V) / sqrt(k_i (1 - k_i / V) k_j (1 - k_j / V))`.
    """
    s, k, words = labels.support, labels.sizes.astype(np.float64), labels.shape[0]
    shared = (s[:, rows].T @ s[:, cols]).toarray() - np.multiply.outer(k[rows], k[cols]) / words
    size = np.sqrt(k * (1 - k / words))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: F64 = shared / np.multiply.outer(size[rows], size[cols])
    return found


def word_cosines(labels: LabelMatrix, rows: Chosen = ALL, cols: Chosen = ALL) -> F64:
    """Cosines of the rows of the centred supports, at these words."""
    s, k = sparse.csr_array(labels.support), labels.sizes / labels.shape[0]
    off = s @ k
    count = np.asarray(s.sum(axis=1)).ravel()
    shared = (s[rows] @ s[cols].T).toarray() - off[rows][:, None] - off[cols] + k @ k
    size = np.sqrt(np.maximum(count - 2 * off + k @ k, 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: F64 = shared / np.multiply.outer(size[rows], size[cols])
    return found
