"""SELI: where the minimum of cross-entropy tends to as the ridge vanishes (S1, S2), and what a ridge does (S4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deltagram.papers import nets
from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.measured import Checked, Numbers, averaged
from deltagram.papers.points import PARTS, Row, counts_of, on_path, point

Both = tuple[Numbers, list[dict[str, Any]]]


def trained(bench: Bench, claim: Claim, seed: int) -> list[Row]:
    """Plain cross-entropy at each imbalance and ridge of the claim."""
    s = claim.settings
    return [
        point(bench, loss="ce", counts=counts_of(kind, classes=s["classes"], least=s["least"]), ridge=ridge, seed=seed)
        for kind in s["imbalances"] for ridge in s["ridges"]
    ]  # fmt: skip


def vanishing(bench: Bench, claim: Claim) -> list[list[Row]]:
    """The path of each imbalance at the ridges that no training reaches, the larger one first."""
    s = claim.settings
    return [
        [
            on_path(bench, loss="ce", counts=counts_of(kind, classes=s["classes"], least=s["least"]), ridge=ridge)
            for ridge in s["tiny"]
        ]
        for kind in s["imbalances"]
    ]


def excess(rows: Sequence[Row], names: Sequence[str] = PARTS, *, tail: str = "") -> float:
    """The largest distance in units of what the duality gap allows."""
    return float(max(row[f"{name}{tail}"] / row[f"{name}_allowed"] for row in rows for name in names))


def is_skewed(row: Row) -> bool:
    """Whether classes have unequal counts."""
    return len(set(row["counts"])) > 1


def law_power(rows: Sequence[Row], part: str) -> float:
    """Exponent of a distance to SELI against log(1 / ridge), between two ridges: -1 by the law near zero."""
    far, near = rows
    logs = [np.log(-np.log(row["ridge"])) for row in rows]
    return float((np.log(near[f"{part}_seli"]) - np.log(far[f"{part}_seli"])) / (logs[1] - logs[0]))


def logits(bench: Bench, claim: Claim) -> Checked:
    """S1: W^T H, trained at ridges, followed on the path to none, and of networks; the logits of a free bias beside."""

    def work(seed: int) -> Both:
        runs = nets.trained(bench, claim, seed)
        points, path = trained(bench, claim, seed), vanishing(bench, claim)
        least = [row for row in points if is_skewed(row) and row["ridge"] == min(claim.settings["ridges"])]
        skewed = [run for run in runs if is_skewed(run)]
        return {
            "excess": excess(points, ("z",)),
            "limit": max(rows[-1]["z_seli"] for rows in path),
            "law": float(np.mean([law_power(rows, "z") for rows in path if is_skewed(rows[0])])),
            "control_free_bias": min(row["z_free_bias"] - row["z_seli"] for row in least),
            "net": max(run["z_seli"] for run in runs),
            "control_net_free_bias": min(run["z_free_bias"] - run["z_seli"] for run in skewed),
        }, points + [row for rows in path for row in rows] + runs

    return averaged(bench, work)


def geometry(bench: Bench, claim: Claim) -> Checked:
    """S2: the Grams of W and M likewise; the simplex beside."""

    def work(seed: int) -> Both:
        runs = nets.trained(bench, claim, seed)
        points, path = trained(bench, claim, seed), vanishing(bench, claim)
        s = claim.settings
        known = point(bench, loss="ce", counts=counts_of(s["known"], classes=s["classes"], least=s["least"]),
                      ridge=s["known_ridge"], seed=seed)  # fmt: skip
        skewed = [run for run in runs if is_skewed(run)]
        return {
            "excess": excess(points, ("w", "m")),
            "limit_w": max(rows[-1]["w_seli"] for rows in path),
            "limit_m": max(rows[-1]["m_seli"] for rows in path),
            "known_w": known["w_seli"],
            "known_m": known["m_seli"],
            "control_etf_w": known["w_etf"] - known["w_seli"],
            "control_etf_m": known["m_etf"] - known["m_seli"],
            "control_net_etf_w": min(run["w_etf"] - run["w_seli"] for run in skewed),
            "control_net_etf_m": min(run["m_etf"] - run["m_seli"] for run in skewed),
        }, [*points, *(row for rows in path for row in rows), known, *runs]

    return averaged(bench, work)


def ridge(bench: Bench, claim: Claim) -> Checked:
    """S4: no ridge moves a balanced geometry, every ridge an imbalanced one; two classes of any counts beside."""
    s = claim.settings

    def work(seed: int) -> Both:
        points = trained(bench, claim, seed)
        even = [row for row in points if not is_skewed(row)]
        uneven = [row for row in points if is_skewed(row)]
        two = [point(bench, loss="ce", counts=s["two"], ridge=ridge, seed=seed) for ridge in s["ridges"]]
        tiny = [rows[-1] for rows in vanishing(bench, claim) if is_skewed(rows[-1])]
        least = np.sqrt(s["least"])
        above, below = (
            point(bench, loss="ce", counts=counts_of(s["merging"], classes=s["classes"], least=s["least"]),
                  ridge=float(share * least), seed=seed)
            for share in (1 + s["beside"], 1 - s["beside"])
        )  # fmt: skip
        return {
            "balanced_excess": excess(even, tail="_seli"),
            "imbalanced_excess": min(excess([row], tail="_seli") for row in uneven),
            "law": min(-np.log(row["ridge"]) * row["z_seli"] for row in tiny),
            "merged": above["minority_cosine"],
            "apart": below["minority_cosine"],
            "control_two_classes": excess(two, tail="_seli"),
        }, [*points, *two, *tiny, above, below]

    return averaged(bench, work)
