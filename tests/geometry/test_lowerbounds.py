"""Lower bounds of the contrastive loss: attained by the orthogonal frame, met by nothing below, and gaps explained."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.designs import orthogonal
from deltagram.geometry.lowerbounds import batch_bounds, full_batch_bound, shortfall
from naivecontrast import terms

CLOSE = 1e-10
counts_of = st.lists(st.integers(0, 6), min_size=2, max_size=5).filter(lambda c: sum(c) > 0)
temperatures = st.floats(0.05, 5.0)


def reduced(found: list[float | None], weights: list[float], reduction: str) -> float:
    kept = [(t, w) for t, w in zip(found, weights, strict=True) if t is not None]
    total = sum(t * w for t, w in kept)
    if reduction == "sum":
        return total
    by = sum(w for _, w in kept) if reduction == "mean" else sum(weights)
    return total / by if kept else 0.0


@given(counts_of, temperatures, st.sampled_from(["sum", "mean", "mean-all"]), st.booleans(), st.integers(0, 2**20))
@settings(max_examples=60, deadline=None)
def test_the_frame_attains_it_and_others_do_not_go_below(
    counts: list[int], temperature: float, reduction: Any, inside: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    weight = rng.uniform(0.1, 3, len(counts))
    bound = full_batch_bound(
        counts, temperature=temperature, reduction=reduction, class_weight=weight
    )  # fmt: skip

    def loss(h: F64) -> float:
        slow = terms(h, labels.tolist(), temperature=temperature, inside=inside)
        return reduced(slow, weight[labels].tolist(), reduction)

    frame = orthogonal(len(counts), dim=2 * len(counts) + 1)
    assert loss(frame[labels]) == pytest.approx(bound, abs=CLOSE * max(1.0, abs(bound)))
    other = np.abs(rng.standard_normal((len(labels), 7)))
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    assert loss(other) >= bound - CLOSE * max(1.0, abs(bound))


@given(counts_of, temperatures, st.booleans(), st.booleans(), st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_with_prototypes(counts: list[int], temperature: float, inside: bool, anchors: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = len(counts)
    labels = np.repeat(np.arange(k), counts)
    copies = rng.integers(1, 5, k) if anchors else rng.uniform(0.2, 5, k)
    bound = full_batch_bound(counts, temperature=temperature, copies=copies, prototype_anchors=anchors)
    w = orthogonal(k)

    def loss(h: F64) -> float:
        told = {"prototypes": w, "copies": copies, "inside": inside, "prototype_anchors": anchors}
        found = terms(h, labels.tolist(), temperature=temperature, **told)
        weights = [1.0] * len(labels) + (copies.tolist() if anchors else [])
        return sum(t * by for t, by in zip(found, weights, strict=True) if t is not None)

    assert loss(w[labels]) == pytest.approx(bound, abs=CLOSE * max(1.0, abs(bound)))
    other = np.abs(rng.standard_normal((len(labels), k)))
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    assert loss(other) >= bound - CLOSE * max(1.0, abs(bound))


def test_batches_have_a_bound_each() -> None:
    batches = np.array([[3, 2, 0], [1, 1, 1], [4, 0, 0], [0, 0, 0]])
    found = batch_bounds(batches, temperature=0.5)
    assert found == pytest.approx([full_batch_bound(b, temperature=0.5) for b in batches])
    assert found[1] == found[3] == 0  # no sample with a positive
    assert found[2] == pytest.approx(4 * np.log(3))
    assert batch_bounds(batches, temperature=0.5, reduction="mean")[[1, 3]].tolist() == [0, 0]


def minimum(batches: list[list[int]], labels: F64, *, temperature: float, dim: int, seed: int) -> tuple[F64, float]:
    """Non-negative unit features by projected gradient steps, kicked once; and the loss summed over batches."""
    rng = np.random.default_rng(seed)
    h = np.abs(rng.standard_normal((len(labels), dim)))
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    for step in range(6000):
        slope = np.zeros_like(h)
        for rows in batches:
            part = h[rows]
            s = part @ part.T / temperature
            np.fill_diagonal(s, -np.inf)
            share = np.exp(s - s.max(1, keepdims=True))
            share /= share.sum(1, keepdims=True)
            same = (labels[rows][:, None] == labels[rows]) & ~np.eye(len(rows), dtype=bool)
            drawn = same / np.maximum(same.sum(1, keepdims=True), 1)
            by = np.where(same.any(1, keepdims=True), share - drawn, 0.0)
            slope[rows] += (by + by.T) @ part / temperature
        h = np.maximum(h - 0.1 * slope, 0.0)
        if step == 1000:
            h = h + 1e-3 * np.abs(rng.standard_normal(h.shape))
        h /= np.linalg.norm(h, axis=1, keepdims=True)
    value = sum(
        t for rows in batches for t in terms(h[rows], labels[rows].tolist(), temperature=temperature) if t is not None
    )
    return h, value


def test_a_gap_tells_batching_from_optimisation() -> None:
    labels = np.repeat(np.arange(3), 4)
    halves = [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]
    bound_rows = [*halves[0], 2, 6, 10], [*halves[1], 0, 4, 8]
    causes = {}
    for name, batches in {"halves": halves, "bound": list(bound_rows)}.items():
        h, value = minimum(batches, labels, temperature=0.5, dim=9, seed=1)
        bound = batch_bounds(
            [np.bincount(labels[rows], minlength=3) for rows in batches], temperature=0.5
        ).sum()  # fmt: skip
        means = np.stack([h[labels == c].mean(0) for c in range(3)])
        gram = means @ means.T
        far = float(np.linalg.norm(gram / np.linalg.norm(gram) - np.eye(3) / np.sqrt(3)))
        causes[name] = shortfall(value, float(bound), distance=far).cause
    assert causes == {"halves": "batching", "bound": "reached"}
    unfinished = shortfall(1.2, 1.0, distance=0.4)
    assert (unfinished.cause, unfinished.gap) == ("optimisation", pytest.approx(0.2))
    assert "training has not ended" in unfinished.said
    assert shortfall(1.2, 1.0, distance=0.01).cause == "metric"


BAD: Mapping[str, tuple[Callable[[], Any], str]] = {
    "temperature": (lambda: full_batch_bound([3, 4], temperature=-1), "temperature: -1, expected a positive number"),
    "fraction": (
        lambda: full_batch_bound([3, 0.5], temperature=1),
        "batches: batch 0 has 0.5 of class 1, expected whole",
    ),
    "shape": (lambda: batch_bounds([3, 4], temperature=1), r"batches: have shape \(2,\), expected \(batch, class\)"),
    "one class": (lambda: full_batch_bound([3], temperature=1), "two or more classes"),
    "words": (lambda: batch_bounds([["a", "b"]], temperature=1), "batches: are not numbers"),
    "reduction": (
        lambda: full_batch_bound([3, 4], temperature=1, reduction="max"),  # type: ignore[arg-type]
        "reduction: 'max', expected sum, mean, mean-all",
    ),
    "copies": (lambda: full_batch_bound([3, 4], temperature=1, copies=-1), "copies: holds -1, expected finite numbers"),
    "weights": (lambda: full_batch_bound([3, 4], temperature=1, class_weight=[1]), "class_weight: has shape"),
    "anchors": (lambda: full_batch_bound([3, 4], temperature=1, prototype_anchors=True), "without prototypes"),
    "below": (lambda: shortfall(0.5, 1.0, distance=0.1), "loss: 0.5 is below the bound 1, .*not negative"),
    "nan": (lambda: shortfall(np.nan, 1.0, distance=0.1), "loss: nan, expected a finite number"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_in_words(case: tuple[Callable[[], Any], str]) -> None:
    with pytest.raises(SettingError, match=case[1]):
        case[0]()
