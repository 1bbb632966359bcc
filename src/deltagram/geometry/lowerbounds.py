"""Lower bounds of the supervised contrastive loss over non-negative unit features, and what a gap to them means.

Each anchor's term is least, by itself, where its class is one vector and all others are at right angles (Theorems 1
and 2 of arXiv 2306.07960): with m positives and M others `log(m + M e^{-1/t})`. The orthogonal frame attains all of
them at once, for any counts and any batches; so does whatever else has these products inside every batch.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.problem import check_positive

Reduction = Literal["sum", "mean", "mean-all"]
REDUCTIONS: Final = ("sum", "mean", "mean-all")
_ROUNDING: Final = 1e-5  # of a loss in single precision, summed over a batch


def batch_bounds(
    batches: ArrayLike,
    *,
    temperature: float,
    reduction: Reduction = "sum",
    class_weight: ArrayLike | None = None,
    copies: ArrayLike | None = None,
    prototype_anchors: bool = False,
) -> F64:
    """The bound of each batch, (batch), from its samples a class, (batch, class), zeros included.

    An anchor is a sample with a positive in its batch: another of its class, or a prototype of it. `reduction` sums
    anchors, each times its `class_weight` (class), and divides by their weights ("mean"), or by those of all samples of
    the batch ("mean-all", as SupContrast does). `copies` (class, or one number) are orthonormal, non-negative
    prototypes, negatives to all classes, and anchors too with `prototype_anchors`. The bound is the same for L_in,
    whose mean over positives is inside the logarithm. A batch without an anchor has the bound 0. Attained in as many
    dimensions as classes.

    Raises SettingError for counts that are not whole numbers, for other shapes and for settings out of range.
    """
    n = _batches(batches)
    check_positive("temperature", temperature)
    if reduction not in REDUCTIONS:
        raise SettingError("reduction", repr(reduction), expected=", ".join(REDUCTIONS))
    q = _held("copies", copies, n.shape[1], neutral=0.0)
    weight = _held("class_weight", class_weight, n.shape[1], neutral=1.0)
    if prototype_anchors and not q.any():
        raise SettingError("prototype_anchors", "without prototypes", fix="give copies")
    every = n + q
    anchors = every if prototype_anchors else n
    positives = np.maximum(every - 1, 0.0)
    valid = np.where(positives > 0, anchors, 0.0)
    others = every.sum(1, keepdims=True) - every
    over = np.where(positives > 0, positives, 1.0)
    term = np.log(over + others * np.exp(-1 / temperature))
    total: F64 = (valid * weight * term).sum(1)
    if reduction == "sum":
        return total
    by = ((valid if reduction == "mean" else anchors) * weight).sum(1)
    mean: F64 = np.divide(total, by, out=np.zeros_like(total), where=by > 0)
    return mean


def full_batch_bound(
    counts: ArrayLike,
    *,
    temperature: float,
    reduction: Reduction = "sum",
    class_weight: ArrayLike | None = None,
    copies: ArrayLike | None = None,
    prototype_anchors: bool = False,
) -> float:
    """The bound where all samples are one batch: `sum_c n_c log(n_c - 1 + (n - n_c) e^{-1/t})`. As `batch_bounds`.

    >>> round(full_batch_bound([3, 2], temperature=1.0), 6)
    4.506563
    """
    found = batch_bounds(
        np.asarray(counts)[None], temperature=temperature, reduction=reduction, class_weight=class_weight,
        copies=copies, prototype_anchors=prototype_anchors,
    )  # fmt: skip
    return float(found[0])


def _batches(given: ArrayLike) -> F64:
    try:
        n = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise SettingError("batches", "are not numbers, a row of them a batch") from None
    if n.ndim != 2 or n.shape[1] < 2:
        raise SettingError("batches", f"have shape {n.shape}", expected="(batch, class), two or more classes")
    wrong = np.argwhere(~(np.isfinite(n) & (n >= 0) & (n == np.floor(n))))
    if len(wrong):
        row, col = wrong[0].tolist()
        raise SettingError(
            "batches", f"batch {row} has {n[row, col]:g} of class {col}", expected="whole numbers from 0"
        )
    return n


def _held(name: str, given: ArrayLike | None, classes: int, *, neutral: float) -> F64:
    """One number a class, not negative."""
    found = np.asarray(neutral if given is None else given, np.float64)
    if found.ndim > 1 or (found.ndim == 1 and len(found) != classes):
        raise SettingError(name, f"has shape {found.shape}", expected=f"one number, or {classes}, one a class")
    if not (np.isfinite(found).all() and (found >= 0).all()):
        raise SettingError(name, f"holds {found.min():g}", expected="finite numbers from 0 on")
    return np.broadcast_to(found, classes).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """What stands between a loss and the orthogonal frame: `gap` to the bound, `distance` of the Gram from the frame.

    `cause` is "reached", "batching" (the bound is attained, by something else), "optimisation", or "metric" (the frame
    without the bound); `said` is a sentence.
    """

    gap: float
    distance: float
    cause: Literal["reached", "batching", "optimisation", "metric"]
    said: str


_SAID: Final = {
    "reached": "the loss is at its bound and the class means are an orthogonal frame",
    "batching": "the loss is at its bound and the class means are no orthogonal frame: these batches have other "
    "minimisers too; bind the classes (one example of each in every batch), use prototypes, or reshuffle",
    "optimisation": "the loss is above its bound: training has not ended, or units are dead; a temperature that is low "
    "flattens the loss near the frame (slope e^(-1/t) / t)",
    "metric": "the class means are near an orthogonal frame and the loss is above its bound: samples are spread around "
    "their means, or the means are of other features than the loss's",
}


def shortfall(
    loss: float, bound: float, *, distance: float, near: float = 0.05, rounding: float = _ROUNDING
) -> Shortfall:
    """Tell minimisers that are not unique from poor optimisation: `loss` and `bound` of the same batches and reduction.

    `distance` is that of the normalised Gram of class means from the frame (`compare`), small below `near`; a gap is
    one above `rounding` of the bound. Raises SettingError for a loss further below the bound than that: the features
    are negative somewhere, not of norm 1, or the bound is of another loss.
    """
    for name, value in (("loss", loss), ("bound", bound), ("distance", distance)):
        if not np.isfinite(value):
            raise SettingError(name, f"{value:g}", expected="a finite number")
    gap, least = loss - bound, rounding * max(1.0, abs(bound))
    if gap < -least:
        raise SettingError(
            "loss", f"{loss:g} is below the bound {bound:g}", expected="features that are not negative, of norm 1",
            fix="compare with a bound of the same batches, temperature, reduction and weights",
        )  # fmt: skip
    at_bound, at_frame = gap <= least, distance <= near
    cause: Literal["reached", "batching", "optimisation", "metric"] = (
        ("reached" if at_frame else "batching") if at_bound else ("metric" if at_frame else "optimisation")
    )
    return Shortfall(gap=gap, distance=distance, cause=cause, said=_SAID[cause])
