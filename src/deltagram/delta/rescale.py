"""What kept differences are divided by: the factor q of DAREx, 1 - p in DARE."""

from deltagram.delta.masks import WORDS
from deltagram.delta.methods import Magnitude, Method, kept_count, threshold


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


def default_divisor(method: Method, size: int) -> float:
    """What `restore` divides by unless told: DARE's divisor for random masks, 1 for chosen entries."""
    return 1.0 if isinstance(method, Magnitude) else dare_divisor(method, size)
