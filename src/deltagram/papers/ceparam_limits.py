"""CE parameterisations: tuned to symmetry (P3), and those that leave the limit where it is (P4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deltagram.geometry.nonconvex import margin_search
from deltagram.geometry.problem import Problem
from deltagram.papers import nets
from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.measured import Checked, Numbers, averaged
from deltagram.papers.points import Row, counts_of, on_path, point, trajectory

Both = tuple[Numbers, list[dict[str, Any]]]


def _counts(settings: Mapping[str, Any], kind: str) -> list[int]:
    return counts_of(kind, classes=settings["classes"], least=settings["least"])


def symmetric(bench: Bench, claim: Claim) -> Checked:
    """P3: LDT of sqrt(n) with weights 1/n at any ridge, CDT of sqrt(n) and of R^(1/6) in the limit."""
    s = claim.settings

    images, kind = s["net"]

    def work(seed: int) -> Both:
        runs = [nets.run(bench, images, kind, loss=loss, seed=seed) for loss in ("ce", "ldt-weights")]
        counts = [_counts(s, kind) for kind in s["imbalances"]]
        tuned, bare = (
            [point(bench, loss=loss, counts=n, ridge=r, seed=seed) for n in counts for r in s["ridges"]]
            for loss in ("ldt-weights", "ldt")
        )
        merge = {
            loss: point(bench, loss=loss, counts=s["merging"], ridge=s["merging_ridge"], seed=seed)
            for loss in ("ce", "ldt")
        }  # fmt: skip
        cdt = _cdt(bench, s, seed)
        return {
            "classifiers": max(row["w_etf"] / row["w_allowed"] for row in tuned),
            "mean_angles": max(row["mean_angles"] for row in tuned),
            "norm_power": float(np.mean([row["norm_power"] for row in tuned])),
            "means_to_etf": min(row["m_etf"] for row in tuned),
            "cdt_alignment": cdt["alignment"],
            "cdt_angles": cdt["angles"],
            "control_no_weights": min(row["w_etf"] / row["w_allowed"] for row in bare),
            "control_merged_ce": merge["ce"]["minority_cosine"],
            "control_merged_ldt": merge["ldt"]["minority_cosine"],
            "net": runs[0]["w_etf"] - runs[1]["w_etf"],
        }, [*tuned, *bare, *merge.values(), {"name": "CDT, searched", **cdt}, *runs]

    return averaged(bench, work)


def _cdt(bench: Bench, settings: Mapping[str, Any], seed: int) -> dict[str, float]:
    """Least alignment under sqrt(n), and the difference of the groups' angles under R^(1/6), of searched minima."""
    counts = _counts(settings, settings["searched"])
    told = {"free": "CDT tunings", "counts": counts, "seed": seed}

    def measure() -> dict[str, float]:
        n = np.asarray(counts, np.float64)
        aligned, even = (
            margin_search(Problem.of(counts, class_scale=n**power), 2 * len(n), seed=seed).geometry()
            for power in (1 / 2, 1 / 6)
        )
        cosines = even.classifier_cosines()
        return {
            "alignment": float(aligned.alignment().min()), "angles": float(abs(cosines[0, 1] - cosines[-1, -2]))
        }  # fmt: skip

    return bench.notes.once(told, measure)


def unchanged(bench: Bench, claim: Claim) -> Checked:
    """P4: weights and offsets along the ridge path, and by gradient descent; multipliers beside."""
    s = claim.settings

    def work(seed: int) -> Both:
        counts = _counts(s, s["imbalance"])
        path = [
            on_path(bench, loss=loss, counts=counts, ridge=ridge) for loss in s["losses"] for ridge in s["tiny"]
        ]  # fmt: skip
        points = [
            point(bench, loss=loss, counts=counts, ridge=ridge, seed=seed)
            for loss in s["losses"] for ridge in s["ridges"]
        ]  # fmt: skip
        every = [*s["losses"], *s["others"]]
        plain, fast = (
            {loss: _descent(bench, s[method], loss, counts, seed) for loss in every}
            for method in ("method", "normalised")
        )
        last, soon = ({loss: rows[-1] for loss, rows in ends.items()} for ends in (plain, fast))
        others = [on_path(bench, loss=loss, counts=counts, ridge=s["tiny"][-1]) for loss in s["others"]]
        return {
            "limit_w": max(row["w_seli"] for row in path if row["ridge"] == s["tiny"][-1]),
            "limit_m": max(row["m_seli"] for row in path if row["ridge"] == s["tiny"][-1]),
            "excess": max(row[part] / row[f"{part}_allowed"] for row in points for part in ("w", "m", "z")),
            "descent": max(last[loss]["w_seli"] for loss in s["losses"]),
            "descent_apart": max(abs(last[loss]["w_seli"] - last["ce"]["w_seli"]) for loss in s["losses"]),
            "normalised": max(soon[loss]["w_seli"] for loss in s["losses"]),
            "control_path": min(row["w_seli"] for row in others),
            "control_descent": min(last[loss]["w_seli"] for loss in s["others"]),
            "control_normalised": min(soon[loss]["w_seli"] for loss in s["others"]),
        }, [*path, *points, *others, *(row for ends in (plain, fast) for rows in ends.values() for row in rows)]

    return averaged(bench, work)


def _descent(bench: Bench, method: Mapping[str, Any], loss: str, counts: Sequence[int], seed: int) -> list[Row]:
    return trajectory(
        bench, loss=loss, counts=counts, method=method, ridge=0.0, seed=seed, epochs=bench.scale.free_epochs
    )  # fmt: skip
