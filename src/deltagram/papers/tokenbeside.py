"""Beside the claims: what explains the cosines of contexts, in small models and in a large one."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import ExtraError
from deltagram.geometry.cosinestructure import agreements, cosine_matrix
from deltagram.geometry.wordpredictors import context_predictors, word_predictors
from deltagram.jobs.measuretokens import measure_tokens
from deltagram.jobs.tokens import tokens
from deltagram.papers.bench import Bench
from deltagram.papers.characters import text_file
from deltagram.papers.tokenruns import Row

_OF: Final = ("support", "probabilities", "pmi", "last_token")  # of words there is no last token


def correlations(labels: LabelMatrix, logits: Mapping[str, F64]) -> list[Row]:
    """Correlation of the cosines of contexts in each model with those of supports, probabilities and others.

    `logits` (word, context) centred over words, or states (dim, context).
    """
    predicted = {name: one for name, one in context_predictors(labels).items() if name in _OF}
    return [row for model, each in logits.items() for row in _agreed(model, "contexts", each.T, predicted)]


def word_correlations(labels: LabelMatrix, words: Mapping[str, F64]) -> list[Row]:
    """The same of words, vectors (word, dim), centred over words."""
    predicted = word_predictors(labels, np.arange(labels.shape[0]))
    known = {name: one for name, one in predicted.items() if name in _OF}
    return [row for model, each in words.items() for row in _agreed(model, "words", each - each.mean(0), known)]


def _agreed(model: str, of: str, vectors: F64, predicted: Mapping[str, F64]) -> list[Row]:
    return [
        {
            "model": model, "cosines_of": of, "explained_by": name, "correlation": found.correlation,
            "p_value": found.p_value,
        }
        for name, found in agreements(cosine_matrix(vectors), predicted, permutations=99).items()
    ]  # fmt: skip


def word_vectors(logits: F64) -> F64:
    """Words (word, rank) of least norm that have these logits: `U s^(1/2)`."""
    u, s, _ = np.linalg.svd(logits, full_matrices=False)
    found: F64 = u * np.sqrt(s)
    return found


def language_model(bench: Bench, settings: Mapping[str, Any]) -> list[Row]:
    """SmolLM2 on the most frequent contexts of the text, at the full scale; why not, where its package is missing.

    Outside the theorem: fewer dimensions than words, words tied to inputs, trained on other texts.
    """
    if not bench.scale.full:
        return []
    try:
        model = bench.language_model()
    except ExtraError as fault:
        return [{"model": "SmolLM2", "not_run": str(fault)}]
    out = bench.folder / "smollm2-supports.npz"
    s = settings["language_model"]
    tokens(text_file(bench), out, tokenizer=str(model), **s, force=True, progress=bench.progress)
    told = measure_tokens([model], out, progress=bench.progress)
    return [{"model": "SmolLM2", **s, "measured": dict(told.numbers)}]
