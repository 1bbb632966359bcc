"""The largest singular triplets of the centred supports and their kin, matrix-free, for any number of contexts."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import ArpackError, LinearOperator, svds

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.nexttoken import centred_gradient, centred_support
from deltagram.geometry.wordcontext import WordContext

_ZERO = 1e-10  # of the largest: a singular value that is rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """`U diag(sizes) V^T`: `words` U (word, r), `sizes` (r) falling, `contexts` V (context, r).

    The largest entry of each column of U is positive: a sign is free.
    """

    words: F64
    sizes: F64
    contexts: F64

    @property
    def triplet(self) -> tuple[F64, F64, F64]:
        """U, sizes, V."""
        return self.words, self.sizes, self.contexts


def signed(words: F64, sizes: F64, contexts: F64) -> Factors:
    """Factors with the signs fixed."""
    sign = np.sign(words[np.abs(words).argmax(0), np.arange(words.shape[1])])
    return Factors(words=words * sign, sizes=sizes, contexts=contexts * sign)


def centred_factors(labels: LabelMatrix, top: int, *, ridge: float | None = None) -> Factors:
    """The `top` largest triplets of the centred supports, of their form at a ridge if one is given.

    Takes memory for as many vectors, and time for some hundred sparse products. Raises SettingError for `top` outside
    1 to min(words, contexts) - 1, and for a ridge at which no context is switched on.
    """
    return largest_triplets(centred_support(labels, ridge=ridge), top)


def gradient_factors(labels: LabelMatrix, top: int) -> Factors:
    """Those of `(I - 1 1^T / V) P diag(weights)`: embeddings near zero grow along them, the largest first."""
    return largest_triplets(centred_gradient(labels), top)


def largest_triplets(operator: LinearOperator, top: int) -> Factors:
    """The largest triplets of an operator (word, context); fewer where the rest is zero."""
    most = min(operator.shape) - 1
    if not 1 <= top <= most:
        raise SettingError("top", f"is {top}", expected=f"1 to {most}, fewer than words and contexts")
    start = np.cos(np.arange(min(operator.shape), dtype=np.float64))  # of no symmetry, and the same each time
    try:
        u, s, v = svds(operator, k=top, v0=start, solver="arpack")
    except ArpackError:  # what it says of an operator that is zero
        raise SettingError(
            "supports", "have no direction", expected="a context that is switched on, and not full"
        ) from None
    order = np.argsort(-s, kind="stable")
    order = order[s[order] > _ZERO * s.max()]
    return signed(u[:, order], s[order], v[order].T)


def centred_geometry(labels: LabelMatrix) -> WordContext:
    """Words and contexts of the whole proxy, from a dense decomposition of its distinct columns."""
    found = labels.supports
    share = np.sqrt(found.multiplicity)
    dense = found.matrix.toarray() - found.sizes / labels.shape[0]
    u, s, v = np.linalg.svd(dense * share, full_matrices=False)
    kept = s > _ZERO * s[0]
    contexts = (v[kept] / share).T[found.of]
    return WordContext.of_factors(
        (u[:, kept], s[kept], contexts), name="proxy: centred supports", word_names=labels.words,
        context_names=labels.contexts, conventions={"solution": "proxy", "words": "centred"},
    )  # fmt: skip


def proxy_geometry(labels: LabelMatrix, top: int, *, ridge: float | None = None) -> tuple[WordContext, Factors]:
    """Words and contexts of the proxy in its `top` largest directions: Grams and cosines on demand, of any of them."""
    found = centred_factors(labels, top, ridge=ridge)
    told = "centred supports" if ridge is None else f"centred supports, ridge {ridge:g}"
    geometry = WordContext.of_factors(
        found.triplet, name=f"proxy: {told}", word_names=labels.words, context_names=labels.contexts,
        conventions={"solution": "proxy", "directions": f"the {len(found.sizes)} largest", "words": "centred"},
    )  # fmt: skip
    return geometry, found
