"""Beside the claims: what explains the cosines of contexts, in small models and in a large one."""

from collections.abc import Mapping
from typing import Any, Final

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import ExtraError
from deltagram.geometry.cosinestructure import agreements, cosine_matrix
from deltagram.geometry.wordpredictors import context_predictors
from deltagram.jobs.measuretokens import measure_tokens
from deltagram.jobs.tokens import tokens
from deltagram.papers.bench import Bench
from deltagram.papers.characters import text_file
from deltagram.papers.tokenruns import Row

_OF: Final = ("support", "probabilities", "pmi", "last_token")


def correlations(labels: LabelMatrix, logits: Mapping[str, F64]) -> list[Row]:
    """Correlation of the cosines of contexts in each model with those of supports, probabilities and others."""
    predicted = {name: one for name, one in context_predictors(labels).items() if name in _OF}
    return [
        {"model": model, "explained_by": name, "correlation": found.correlation, "p_value": found.p_value}
        for model, each in logits.items()
        for name, found in agreements(cosine_matrix(each.T), predicted, permutations=99).items()
    ]


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
