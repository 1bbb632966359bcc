"""CE parameterisations: closed forms against minima that are searched for without them (P1, P2)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from deltagram.data.imbalance import step_counts
from deltagram.geometry import predict
from deltagram.geometry.gram import Geometry, compare
from deltagram.geometry.nonconvex import Found, margin_search
from deltagram.geometry.problem import Problem, scale_by_counts
from deltagram.geometry.step import Step, closed_form
from deltagram.papers.bench import Bench
from deltagram.papers.ceparam_printed import entries
from deltagram.papers.claims import Claim
from deltagram.papers.measured import Checked, Numbers, averaged
from deltagram.papers.points import Row, parts

SCALES: Mapping[str, str] = {"cdt": "class_scale", "ldt": "label_scale"}
Both = tuple[Numbers, list[dict[str, Any]]]


def searched(
    bench: Bench, counts: Sequence[int], loss: str, gamma: float, *, seed: int, every_sample: bool = False
) -> Row:
    """The margin problem of CDT or LDT from a random start, beside its closed form and that of cross-entropy."""
    told = {
        "free": "margin search", "counts": list(counts), "loss": loss, "gamma": gamma, "seed": seed,
        "every_sample": every_sample,
    }  # fmt: skip
    return told | bench.notes.once(told, lambda: _searched(told))


def _searched(told: Mapping[str, Any]) -> dict[str, float]:
    counts = told["counts"]
    scales: dict[str, Any] = {SCALES[told["loss"]]: scale_by_counts(counts, told["gamma"])}
    found = margin_search(
        Problem.of(counts, **scales), 2 * len(counts), seed=told["seed"], every_sample=told["every_sample"]
    )  # fmt: skip
    geometry = found.geometry()
    certified = predict.certificate(counts, **scales)
    plain = parts(compare(geometry, predict.seli(counts)), "_seli")
    return parts(compare(geometry, predict.cross_entropy(counts, **scales))) | plain | {
        "value": found.value / certified.primal - 1, "violation": found.violation, "spread": found.spread,
    }  # fmt: skip


def minimisers(bench: Bench, claim: Claim) -> Checked:
    """P1: random starts end at the closed form, for CDT and LDT, STEP and any other counts."""
    s = claim.settings

    def work(seed: int) -> Both:
        starts = range(seed * bench.scale.starts, (seed + 1) * bench.scale.starts)
        rows = [
            searched(bench, counts, loss, gamma, seed=start)
            for counts in s["counts"] for loss in SCALES for gamma in s["gammas"] for start in starts
        ]  # fmt: skip
        collapse = [
            searched(bench, s["samples"], loss, gamma, seed=seed, every_sample=True)
            for loss in SCALES for gamma in s["gammas"]
        ]  # fmt: skip
        every = rows + collapse
        return {
            "classifiers": max(row["w"] for row in every),
            "means": max(row["m"] for row in every),
            "logits": max(row["z"] for row in every),
            "value": max(abs(row["value"]) for row in every),
            "spread": max(row["spread"] for row in collapse),
            "control_plain": min(max(row["w_seli"], row["m_seli"], row["z_seli"]) for row in every),
        }, every

    return averaged(bench, work)


def formulas(bench: Bench, claim: Claim) -> Checked:
    """P2: norms and inner products under STEP imbalance over k, R, rho, gamma; and what is printed wrong."""
    s = claim.settings
    cases = [
        (k, rho, ratio, gamma, loss)
        for k, rho in s["sizes"] for ratio in s["ratios"] for gamma in s["gammas"] for loss in SCALES
    ]  # fmt: skip

    def work(seed: int) -> Both:
        rows = [_formula(bench, *case, least=s["least"], seed=seed) for case in cases]
        printed = entries(bench, seed=seed)
        return {
            "error": max(row["error"] for row in rows),
            "printed_wrong": float(sum(entry["shown"] for entry in printed)),
            "control_printed": min(entry["off"] for entry in printed if entry["off"] is not None),
        }, rows + printed

    return averaged(bench, work, cases=len(cases))


def _formula(
    bench: Bench, k: int, rho: float, ratio: float, gamma: float, loss: str, *, least: int, seed: int
) -> Row:  # fmt: skip
    told = {
        "free": "formula", "k": k, "rho": rho, "R": ratio, "gamma": gamma, "loss": loss, "least": least, "seed": seed
    }  # fmt: skip

    def measure() -> dict[str, float]:
        counts = step_counts(k, largest=round(least * ratio), ratio=ratio, minority=rho)
        scale = np.where(counts == counts.max(), ratio**gamma, 1.0)
        found = margin_search(Problem.of(counts, **{SCALES[loss]: scale}), 2 * k, seed=seed)
        step = Step(majority=int((counts > counts.min()).sum()), minority=int((counts == counts.min()).sum()),
                    ratio=ratio, least=float(least), scale_ratio=float(ratio**gamma))  # fmt: skip
        return {"error": apart(found, step, label=loss == "ldt")}

    return told | bench.notes.once(told, measure)


def apart(found: Found, step: Step, *, label: bool) -> float:
    """The largest difference of an entry of the Grams from `closed_form`, relative to the norms of its two vectors.

    With `label` (LDT) the formulas are those of plain cross-entropy at R / D^2, and the majority's means divided by D.
    """
    d = step.scale_ratio
    one = Step(majority=step.majority, minority=step.minority, ratio=step.ratio / d**2, least=step.least)
    numbers = asdict(closed_form(one if label else step))
    if label:
        for name, power in (("mean_maj", 2), ("mean_maj_maj", 2), ("mean_cross", 1), ("own_maj", 1)):
            numbers[name] /= d**power
    got = _entries(found.geometry(), step.majority)
    return float(max(abs(got[name] - numbers[name]) / np.sqrt(_squares(name, numbers)) for name in got))


def _squares(name: str, numbers: Mapping[str, float]) -> float:
    """The product of the squared norms of the two vectors that an entry is the product of."""
    kind, _, groups = name.partition("_")
    if kind == "own":
        return numbers[f"classifier_{groups}"] * numbers[f"mean_{groups}"]
    if groups == "cross":
        return numbers[f"{kind}_maj"] * numbers[f"{kind}_min"]
    return numbers[f"{kind}_{groups[:3]}"] ** 2


def _entries(geometry: Geometry, majority: int) -> dict[str, float]:
    """One entry of each kind, of the pairs that there are."""
    found: dict[str, float] = {}
    if geometry.classifiers is None or geometry.logits is None:
        return found
    k, last = geometry.classes, geometry.classes - 1
    for kind, gram in (("classifier", geometry.classifiers.dense()), ("mean", geometry.means.dense())):
        found |= {f"{kind}_maj": gram[0, 0], f"{kind}_min": gram[last, last], f"{kind}_cross": gram[0, last]}
        if majority > 1:
            found[f"{kind}_maj_maj"] = gram[0, 1]
        if k - majority > 1:
            found[f"{kind}_min_min"] = gram[last, last - 1]
    own = geometry.logits.entries()
    return found | {"own_maj": own[0], "own_min": own[last]}
