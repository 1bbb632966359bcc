"""Entries of arXiv 2303.07608 and of its authors' code that disagree with its own lemmas: printed, correct, shown by.

Each is measured on a minimum that is searched for without any closed form, or on the certified ridge path. `off` is how
far the printed value is from what was measured, relative; None where the entry is no number.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np

from deltagram.geometry.gram import Geometry
from deltagram.geometry.nonconvex import margin_search
from deltagram.geometry.path import finite_ridge
from deltagram.geometry.problem import Problem
from deltagram.geometry.step import Step, closed_form
from deltagram.papers.bench import Bench
from deltagram.papers.points import Row

_K, _RATIO, _LEAST = 10, 10, 5
_MATCH: Final = 1e-3  # of a searched minimum and the value that is correct, relative
_HUGE: Final = 1e16  # R that stands for its limit
_COUNTS: Final = [_LEAST * _RATIO] * (_K // 2) + [_LEAST] * (_K // 2)


def entries(bench: Bench, *, seed: int) -> list[Row]:
    """A row each: where it stands, what is printed, what is correct, what shows it, and whether it was shown here."""
    return [
        {"entry": where, "seed": seed, **bench.notes.once({"printed": where, "seed": seed}, partial(show, seed))}
        for where, show in _ENTRIES.items()
    ]


def _searched(seed: int, **scales: Any) -> Geometry:
    return margin_search(Problem.of(_COUNTS, **scales), 2 * _K, seed=seed).geometry()


def _squared_ratio(geometry: Geometry) -> float:
    sizes = np.square(geometry.classifier_norms())
    return float(sizes[0] / sizes[-1])


def _row(printed: Any, correct: Any, by: str, *, shown: bool, off: float | None, measured: Any) -> dict[str, Any]:
    return {
        "printed": printed,
        "correct": correct,
        "shown_by": by,
        "measured": measured,
        "shown": bool(shown),
        "off": None if off is None else float(off),
    }


def _limits_of_means(seed: int) -> dict[str, Any]:
    """Table 1, cosines of embeddings as R grows: Lemma D.2 gives others. A search at R = 100 is on that lemma."""
    less, even = -2 / (_K - 2), (2 - 2 * np.sqrt(2)) / (2 + np.sqrt(2) * (_K - 2))
    correct = {"-0.5": (less, less), "0": (even, less), "0.5": (0.0, less)}
    off, lemma = 0.0, 0.0
    for gamma, wanted in correct.items():
        limit = closed_form(Step(majority=5, minority=5, ratio=_HUGE, scale_ratio=_HUGE ** float(gamma)))
        got = (limit.mean_maj_maj / limit.mean_maj, limit.mean_min_min / limit.mean_min)
        off = max(off, *(abs(one - other) for one, other in zip(got, wanted, strict=True)))
        ratio = 100.0 ** float(gamma)
        counts, scale = [100] * 5 + [1] * 5, [ratio] * 5 + [1.0] * 5
        found = margin_search(Problem.of(counts, class_scale=scale), 2 * _K, seed=seed).geometry()
        near = closed_form(Step(majority=5, minority=5, ratio=100.0, scale_ratio=ratio))
        cosines = found.mean_cosines()
        lemma = max(
            lemma, abs(cosines[0, 1] - near.mean_maj_maj / near.mean_maj),
            abs(cosines[-1, -2] - near.mean_min_min / near.mean_min),
        )  # fmt: skip
    return _row(
        "limits of cos(h, h') in two rows that contradict Lemma D.2",
        "minority -2/(k-2) for every gamma; majority -2/(k-2), (2-2 sqrt 2)/(2+sqrt 2 (k-2)), 0 for gamma <, =, > 0",
        "Lemma D.2 at R = 1e16, and a searched minimum at R = 100 on that lemma",
        shown=off < _MATCH and lemma < _MATCH, off=None, measured={"limit_error": off, "lemma_error": lemma},
    )  # fmt: skip


def _sign_of_offset(seed: int) -> dict[str, Any]:  # noqa: ARG001 - nothing is drawn
    """Eq. (2) has exp(.. + iota_y - iota_c), so LA is iota = -tau log prior; Fig. 1 sets iota_maj - iota_min > 0."""
    prior = np.log(np.asarray(_COUNTS) / sum(_COUNTS))
    margin = []
    for sign in (1, -1):
        logits = finite_ridge(Problem.of(_COUNTS, offset=sign * prior), 0.1)[0].logits
        dense = np.zeros((_K, _K)) if logits is None else logits.dense()
        margin.append(float(dense[-1, -1] - dense[0, -1]))  # of a minority sample against a majority class
    return _row(
        "iota_maj - iota_min = +gamma log R (Figure 1)", "iota_maj - iota_min = -gamma log R in the sign of Eq. (2)",
        "margins of minorities on the path at ridge 0.1: larger with log prior added to the logits, which is logit "
        "adjustment, smaller with it taken away",
        shown=margin[0] > margin[1], off=None, measured={"added": margin[0], "taken": margin[1]},
    )  # fmt: skip


def _squared_norms(seed: int) -> dict[str, Any]:
    """Fig. 1: the axis says squared norms, the line of CE is at their root."""
    measured, correct = _squared_ratio(_searched(seed)), 2.672
    printed = 1.63
    return _row(
        printed, correct, "squared norms of classifiers of a searched minimum, k = 10, R = 10: majority over minority",
        shown=abs(measured / correct - 1) < _MATCH and abs(np.sqrt(measured) / printed - 1) < 0.01,
        off=abs(printed / measured - 1), measured=measured,
    )  # fmt: skip


def _ldt_geometry(seed: int) -> dict[str, Any]:
    """The code's LDT_geom gets R where its formula is of R (delta_min / delta_maj)^2."""
    d = float(_RATIO**0.5)
    measured = _squared_ratio(_searched(seed, label_scale=[d] * 5 + [1.0] * 5))
    printed, correct = (
        one.classifier_maj / one.classifier_min
        for one in (closed_form(Step(majority=5, minority=5, ratio=r)) for r in (_RATIO, _RATIO / d**2))
    )
    return _row(
        printed, correct, "the ratio of squared classifier norms of a searched minimum of LDT, gamma = 1/2",
        shown=abs(measured / correct - 1) < _MATCH, off=abs(printed / measured - 1), measured=measured,
    )  # fmt: skip


def _singular_values(seed: int) -> dict[str, Any]:
    """Footnote 5: multipliers four times as large divide singular values of the logits by 4, not by 2."""
    scale = np.repeat([2.0, 1.0], _K // 2)
    one, other = (
        np.linalg.svd(_dense(_searched(seed, class_scale=factor * scale)), compute_uv=False)[0] for factor in (1, 4)
    )
    measured = float(np.log(other / one) / np.log(4))
    return _row(
        -0.5, -1.0, "power of the multipliers in the largest singular value of searched logits",
        shown=abs(measured + 1) < _MATCH, off=abs(-0.5 / measured - 1), measured=measured,
    )  # fmt: skip


def _dense(geometry: Geometry) -> Any:
    return np.zeros((_K, _K)) if geometry.logits is None else geometry.logits.dense()


_ENTRIES: Final[dict[str, Callable[[int], dict[str, Any]]]] = {
    "Table 1, rows cos(h, h')": _limits_of_means,
    "Eq. (2) and Figure 1, sign of iota": _sign_of_offset,
    "Figure 1, line of CE": _squared_norms,
    "authors' code, LDT_geom": _ldt_geometry,
    "footnote 5": _singular_values,
}
