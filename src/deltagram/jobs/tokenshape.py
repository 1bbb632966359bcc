"""The next tokens of `predict`: what follows each context to the geometry of words and contexts, and what shows it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.concepts import collapse, directions
from deltagram.geometry.factors import Factors, centred_factors, centred_geometry, gradient_factors, proxy_geometry
from deltagram.geometry.lowdimension import low_dimension
from deltagram.geometry.nexttoken import in_support
from deltagram.geometry.supportdual import proxy_certificate
from deltagram.geometry.supportridge import ridge_solution, zero_from
from deltagram.geometry.supportsvm import max_margin
from deltagram.geometry.wordcontext import WordContext, compare_tokens

_TOP: Final = 32  # directions of the proxy
_FIRST: Final = 8  # directions that are shown, words and contexts a side, groups
_CERTIFIED: Final = 1_000_000  # entries up to which the proxy's certificate is worth its decomposition


def token_prediction(
    tokens: Path | LabelMatrix, *, ridge: float | None, proxy: bool, dim: int | None, top: int | None
) -> tuple[WordContext, dict[str, Any]]:
    """The geometry and its numbers. Raises SettingError for settings that do not go together or make no problem."""
    labels = tokens if isinstance(tokens, LabelMatrix) else LabelMatrix.load(tokens)
    if proxy and dim is not None:
        raise SettingError("dim", "together with the proxy", expected="top: its largest directions")
    if top is not None and not proxy:
        raise SettingError("top", "without the proxy", fix="give --proxy, which finds the largest directions alone")
    if labels.shape[1] < 2:
        raise SettingError("contexts", "there is one", expected="two or more, or there is nothing to tell apart")
    numbers = _described(labels)
    if proxy:
        most = min(_TOP, min(labels.shape) - 1)
        geometry, largest = proxy_geometry(labels, most if top is None else top, ridge=ridge)
        numbers |= _of_proxy(labels, largest)
    elif ridge is not None:
        geometry, found = _at_ridge(labels, ridge, dim)
        numbers |= found
    else:
        geometry, found = _in_the_limit(labels, dim)
        numbers |= found
    first = min(_FIRST, min(labels.shape) - 1)
    numbers |= _concepts(labels, centred_factors(labels, first), first)
    if not proxy:
        numbers["beside_proxy"] = asdict(compare_tokens(geometry, centred_geometry(labels)))
    return geometry, {"name": geometry.name, "conventions": dict(geometry.conventions)} | numbers


def _described(labels: LabelMatrix) -> dict[str, Any]:
    """What the labels are: sizes, entropy, and what the limit makes one."""
    groups = collapse(labels)
    contexts, words = groups.context_groups, groups.word_groups
    full = int((labels.sizes == labels.shape[0]).sum())
    return {
        "words": labels.shape[0], "contexts": labels.shape[1], "samples": labels.samples,
        "distinct_supports": int(groups.contexts.max()) + 1, "distinct_words": int(groups.words.max()) + 1,
        "entropy": labels.entropy, "support_size": {
            "least": int(labels.sizes.min()), "median": float(np.median(labels.sizes)), "most": int(labels.sizes.max()),
            "one": int((labels.sizes == 1).sum()), "full": full,
        },
        "log_odds_norm": float(np.linalg.norm(in_support(labels).data)),
        "collapse": {
            "context_groups": len(contexts), "contexts_in_groups": sum(map(len, contexts)),
            "largest_context_groups": [_group(group, labels.contexts, "context") for group in contexts[:_FIRST]],
            "word_groups": len(words), "words_in_groups": sum(map(len, words)),
            "largest_word_groups": [_group(group, labels.words, "word") for group in words[:_FIRST]],
        },
    }  # fmt: skip


def _group(members: Any, names: Sequence[str], kind: str) -> dict[str, Any]:
    return {"size": len(members), "first": _named(members[:_FIRST].tolist(), names, kind)}


def _named(members: Sequence[int], names: Sequence[str], kind: str) -> list[str]:
    return [names[member] if names else f"{kind} {member}" for member in members]


def _of_proxy(labels: LabelMatrix, factors: Factors) -> dict[str, Any]:
    told: dict[str, Any] = {"directions_found": len(factors.sizes), "sizes": factors.sizes.tolist(), "proxy": None}
    if labels.shape[0] * labels.shape[1] <= _CERTIFIED:
        proof = proxy_certificate(labels)
        told["proxy"] = asdict(proof) | {"excess": proof.excess}
    return told


def _at_ridge(labels: LabelMatrix, ridge: float, dim: int | None) -> tuple[WordContext, dict[str, Any]]:
    found = ridge_solution(labels, ridge, dim=dim)
    return found.geometry(), {
        "ridge": {
            "ridge": ridge, "primal": found.primal, "dual": found.dual, "gap": found.gap,
            "slope_norm": found.slope_norm, "balance": found.balance, "rank": found.rank, "excess": found.excess,
            "switched_on": int(found.on.sum()), "zero_from": zero_from(labels),
        }
    }  # fmt: skip


def _in_the_limit(labels: LabelMatrix, dim: int | None) -> tuple[WordContext, dict[str, Any]]:
    limit = max_margin(labels)
    numbers: dict[str, Any] = {
        "margin": {
            "primal": limit.primal, "dual": limit.dual, "gap": limit.gap, "rank": limit.rank,
            "iterations": limit.iterations, "slack": limit.slack, "uniqueness": asdict(limit.uniqueness),
        },
        "proxy": asdict(limit.proxy) | {"excess": limit.proxy.excess},
    }  # fmt: skip
    if dim is None or dim >= limit.rank:
        return limit.geometry(labels), numbers
    low = low_dimension(limit, dim)
    numbers["low_dimension"] = {
        "dim": dim, "value": low.value, "excess": low.excess, "violation": low.violation, "cosine": low.cosine,
        "searches": low.starts, "beside_free": asdict(compare_tokens(low.geometry(labels), limit.geometry(labels))),
    }  # fmt: skip
    return low.geometry(labels), numbers


def _concepts(labels: LabelMatrix, factors: Factors, first: int) -> dict[str, Any]:
    """The first directions by their words and contexts, and how fast embeddings grow from zero."""
    shown = [
        {
            "size": one.size,
            "words": [_named(side, labels.words, "word") for side in (one.words_up, one.words_down)],
            "contexts": [_named(side, labels.contexts, "context") for side in (one.contexts_up, one.contexts_down)],
        }
        for one in directions(factors, first=_FIRST, shown=_FIRST)
    ]
    early = gradient_factors(labels, first)
    return {"directions": shown, "growth": early.sizes.tolist()}
