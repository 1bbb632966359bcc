"""What could explain how words and contexts lie: supports, probabilities, PMI, frequency; as cosines, all with all.

Supports are what the theory of arXiv 2408.15417 has; the others are what it is held against.
"""

from typing import Any, Final

import numpy as np
from scipy import sparse

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix

BASELINES: Final = ("pmi", "frequency", "last_token")  # what partial correlations are given, where it is there
OWN: Final = ("support", "probabilities", *BASELINES)
_ZERO: Final = 1e-12  # of a squared norm before centring: less is a full support, which centring leaves nothing of


def context_predictors(labels: LabelMatrix) -> dict[str, F64]:
    """Predictors of the cosines between contexts, each (context, context).

    "support", "probabilities" and "pmi": cosines of the columns of S, P, and max(0, log P_zj / P_z), less their means.
    "frequency": how alike the contexts' frequencies are, -|log of their ratio|. "last_token", where token numbers are
    known: 1 for contexts of one last token. NaN where a column is zero, such as that of a full support.
    """
    parts = {"support": labels.support, "probabilities": labels.probabilities, "pmi": _pmi(labels)}
    found = {name: _column_cosines(matrix) for name, matrix in parts.items()}
    found["frequency"] = _alike(labels.weights)
    if labels.context_ids is not None:
        last = labels.context_ids[:, -1]
        if 1 < len(np.unique(last)) < len(last):
            found["last_token"] = (last[:, None] == last).astype(np.float64)
    return found


def word_predictors(labels: LabelMatrix, words: Any) -> dict[str, F64]:
    """Predictors of the cosines between these words, each (word, word): of rows, as those of `context_predictors`.

    Rows are less the mean row over all words, as W is.
    """
    parts = {"support": labels.support, "probabilities": labels.probabilities, "pmi": _pmi(labels)}
    found = {name: _row_cosines(matrix, words) for name, matrix in parts.items()}
    found["frequency"] = _alike(word_shares(labels)[words])
    return found


def word_shares(labels: LabelMatrix) -> F64:
    """How often each word is next, as a share, (word)."""
    found: F64 = np.asarray(labels.probabilities @ labels.weights, np.float64)
    return found


def _pmi(labels: LabelMatrix) -> sparse.csc_array:
    """Positive pointwise mutual information, in nats, (word, context)."""
    p = labels.probabilities
    value = np.maximum(np.log(p.data / word_shares(labels)[p.indices]), 0.0)
    return sparse.csc_array((value, p.indices, p.indptr), shape=p.shape)


def _column_cosines(matrix: sparse.csc_array) -> F64:
    """Of `(I - 1 1^T / V) matrix`."""
    total = np.asarray(matrix.sum(axis=0), np.float64).ravel()
    raw = (matrix.T @ matrix).toarray()
    return _cosines(raw - np.multiply.outer(total, total) / matrix.shape[0], np.diag(raw))


def _row_cosines(matrix: sparse.csc_array, rows: Any) -> F64:
    mean = np.asarray(matrix.sum(axis=0), np.float64).ravel() / matrix.shape[0]
    some = sparse.csr_array(matrix)[rows]
    raw, along = (some @ some.T).toarray(), some @ mean
    square = float(mean @ mean)
    return _cosines(raw - along[:, None] - along + square, np.diag(raw) + square)


def _cosines(gram: F64, before: F64) -> F64:
    square = np.diag(gram)
    size = np.where(square > _ZERO * before, np.sqrt(np.maximum(square, 0.0)), np.nan)
    found: F64 = gram / np.multiply.outer(size, size)
    return found


def _alike(shares: F64) -> F64:
    logs = np.log(np.where(shares > 0, shares, np.nan))
    found: F64 = -np.abs(logs[:, None] - logs)
    return found
