"""What kept differences are divided by: the factor q of DAREx, 1 - p in DARE."""

from deltagram.delta.masks import WORDS
from deltagram.delta.methods import Columns, Listed, Method, Structural, kept_count, threshold
from deltagram.delta.submatrix import inside


def dare_divisor(method: Method, size: int) -> float:
    """DARE's divisor 1 - p of a tensor of `size` entries: the share its mask keeps.

    For a Bernoulli mask it is the probability itself, for others the exact count over the size: a small tensor whose
    count was rounded up to one would otherwise overshoot. Yu et al., arXiv 2311.03099, equation 2.

    >>> from deltagram.delta.methods import Random
    >>> dare_divisor(Random(keep=0.01), 150)
    0.013333333333333334
    """
    if method.mask == "bernoulli":
        return threshold(method) / WORDS
    return kept_count(method, size) / size


def column_divisor(method: Structural, shape: tuple[int, ...]) -> float:
    """What `restore` divides a matrix of kept columns by unless told.

    Randomly chosen columns: the kept share of the whole matrix, as DARE has it. Columns chosen by a score stand for
    themselves alone: the kept share inside them.

    >>> column_divisor(Columns(keep=0.01, columns=0.5), (30, 200))
    0.01
    """
    within = inside(method, shape)
    if not isinstance(method, Columns):
        return within.share
    if within.threshold is None:
        return within.keep / (shape[0] * shape[1])
    return within.share * within.columns / shape[1]


def default_divisor(method: Method, size: int) -> float:
    """What `restore` divides by unless told: DARE's divisor for random masks, 1 for chosen entries."""
    return 1.0 if isinstance(method, Listed) else dare_divisor(method, size)
