"""Next tokens: what is trained is the program that the theory solves: its loss (N1), and its minimum at a rank (N2)."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from deltagram.data.labels import LabelMatrix
from deltagram.geometry.contextcompare import gap
from deltagram.geometry.supportridge import RidgeSolution, ridge_solution
from deltagram.papers.bench import Bench
from deltagram.papers.characters import chosen, counted, even, sharing
from deltagram.papers.claims import Claim
from deltagram.papers.measured import Checked, Numbers, averaged
from deltagram.papers.supportsets import drawn, made_up, of_supports
from deltagram.papers.tokenruns import Row, Run, free

Both = tuple[Numbers, list[dict[str, Any]]]
_MORE: Final = 4  # times as many starts where the rank is too small: there are local minima
_SEARCHES: Final = 20  # of the reference there: it has no certificate, and 3 starts were seen to miss the minimum


def loss(bench: Bench, claim: Claim) -> Checked:
    """N1: a term a sample against a term a word that can follow, values and gradients, at random logits."""
    s = claim.settings
    text = sharing(counted(bench, s), supports=s["supports"], contexts=s["contexts"])

    def work(seed: int) -> Both:
        rows = [_losses(labels, name, seed) for name, labels in {**made_up(), "characters": text}.items()]
        return {
            "value": max(row["value"] for row in rows), "gradient": max(row["gradient"] for row in rows),
            "control_even": min(row["even"] for row in rows),
        }, rows  # fmt: skip

    return averaged(bench, work)


def _losses(labels: LabelMatrix, name: str, seed: int) -> Row:
    """Relative differences of the two losses, and of the first to that of contexts that all weigh the same."""
    import torch  # noqa: PLC0415 - an extra

    from deltagram.training.softlabels import SoftLabels, sample_loss  # noqa: PLC0415 - imports torch

    start = 3 * drawn(f"logits/{name}", seed).standard_normal(labels.shape[::-1])
    logits = torch.tensor(start, requires_grad=True)
    token = sample_loss(torch, logits, labels)
    soft = SoftLabels(torch, labels, dtype=logits.dtype)(logits) * labels.samples
    uneven = SoftLabels(torch, even(labels), dtype=logits.dtype)(logits) * labels.samples
    slopes = [torch.autograd.grad(part, logits)[0] for part in (token, soft)]
    values = [part.item() for part in (token, soft, uneven)]
    return {
        "labels": name, "samples": labels.samples, "contexts": labels.shape[1],
        "value": abs(values[1] / values[0] - 1),
        "gradient": float((slopes[0] - slopes[1]).norm() / slopes[0].norm() / _rounding(labels)),
        "even": abs(values[2] / values[0] - 1),
    }  # fmt: skip


def _rounding(labels: LabelMatrix) -> float:
    """n eps of the context with most samples: equal terms that are added one after the other round the same way."""
    return float(labels.weights.max() * labels.samples * np.finfo(np.float64).eps)


def rank(bench: Bench, claim: Claim) -> Checked:
    """N2: W and H of d features by gradient steps, against the certified minimum over logits."""
    s = claim.settings
    text = chosen(bench, s)
    one_each = even(text.taken(np.unique(text.supports.of, return_index=True)[1]).occurring()[0])

    def work(seed: int) -> Both:
        cases = {"made up": (_made_up(s, seed), s["ridges"]), "characters": (one_each, s["text_ridges"])}
        rows = [
            row
            for name, (labels, ridges) in cases.items()
            for ridge in ridges
            for row in _by_rank(bench, labels, ridge=ridge, seed=seed, name=name)
        ]
        enough = [row for row in rows if row["enough"]]
        return {
            "excess": max(row["excess"] for row in enough),
            "excess_below": max(row["excess"] for row in enough if row["dim"] < row["most"]),
            "constrained": max(row["constrained"] for row in rows if not row["enough"]),
            "nuclear": max(row["nuclear"] for row in rows),
            "control_too_small": min(row["excess"] for row in rows if not row["enough"]),
        }, rows

    return averaged(bench, work)


def _made_up(settings: Mapping[str, Any], seed: int) -> LabelMatrix:
    rng, words = drawn("supports of a rank", seed), settings["made_words"]
    sizes = rng.integers(1, 1 + words // 2, settings["made_contexts"])
    supports = tuple(tuple(sorted(rng.choice(words, size, replace=False).tolist())) for size in sizes)
    return of_supports(supports, words=words, seed=seed).occurring()[0]


def _by_rank(bench: Bench, labels: LabelMatrix, *, ridge: float, seed: int, name: str) -> list[Row]:
    """As many features as half of the minimum's rank, its rank, the most that logits can have, and twice the words."""
    certified = ridge_solution(labels, ridge)
    most = min(labels.shape[0] - 1, labels.shape[1])
    dims = sorted({max(1, certified.rank // 2), certified.rank, most, 2 * labels.shape[0]})
    told = {"labels": name, "ridge": ridge, "rank": certified.rank, "most": most, "gap": certified.gap}
    return [told | _beside(bench, certified, dim, seed) for dim in dims]


def _beside(bench: Bench, certified: RidgeSolution, dim: int, seed: int) -> Row:
    """The best of some trainings: its excess over the certified bound, in units of what that is above the entropy."""
    labels, ridge, enough = certified.labels, certified.ridge, dim >= certified.rank
    starts = bench.scale.starts * (1 if enough else _MORE)
    runs = [free(bench, labels, seed=seed * starts + start, ridge=ridge, dim=dim) for start in range(starts)]
    best = min((_objective(run, certified) for run in runs), key=lambda found: found[0])
    unit = certified.primal - labels.entropy
    at_rank = certified if enough else ridge_solution(labels, ridge, dim=dim, starts=_SEARCHES)
    return {
        "dim": dim, "enough": enough, "excess": (best[0] - certified.dual) / unit,
        "constrained": abs(best[0] - at_rank.primal) / unit, "nuclear": best[1],
    }  # fmt: skip


def _objective(run: Run, certified: RidgeSolution) -> tuple[float, float]:
    """The objective, and by which share half the squared norms exceed the nuclear norm of the logits."""
    half = float(np.square(run.words).sum() + np.square(run.states).sum()) / 2
    norm = float(np.linalg.svd(run.last, compute_uv=False).sum())
    labels = certified.labels
    return labels.entropy + gap(run.last, labels) + certified.ridge * half, half / norm - 1
