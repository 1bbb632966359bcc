"""SELI: how convergence depends on the imbalance (S3) and on the first-order method (S5)."""

from typing import Any

import numpy as np

from deltagram.papers import nets
from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.measured import Checked, Numbers, averaged
from deltagram.papers.points import PARTS, Row, counts_of, slope, trajectory

Both = tuple[Numbers, list[dict[str, Any]]]


def worsens(bench: Bench, claim: Claim) -> Checked:
    """S3: distances after as many epochs, beside balanced data of as many samples; two classes likewise.

    The losses are summed, so more samples move the classifiers faster: the few of balanced data of the same smallest
    class would be no measure.
    """
    s = claim.settings

    def work(seed: int) -> Both:
        runs = nets.trained(bench, claim, seed)[: len(s["nets"])]

        def descent(counts: list[int]) -> list[Row]:
            return trajectory(
                bench, loss="ce", counts=counts, method=s["method"], ridge=0.0, seed=seed,
                epochs=bench.scale.free_epochs,
            )  # fmt: skip

        def pair(kind: str, classes: int) -> tuple[list[Row], list[Row]]:
            counts = counts_of(kind, classes=classes, least=s["least"])
            return descent(counts), descent([sum(counts) // classes] * classes)

        pairs = [pair(kind, s["classes"]) for kind in s["imbalances"]]
        two = pair(s["imbalances"][-1], 2)
        numbers = {f"rise_{part}": pairs[-1][0][-1][part] - pairs[-1][1][-1][part] for part in PARTS}
        numbers |= {f"net_rise_{part}": runs[-1][f"{part}_seli"] - runs[0][f"{part}_seli"] for part in PARTS}
        numbers["control_two_classes"] = max(two[0][-1][part] - two[1][-1][part] for part in PARTS)
        return numbers, [row for some in [*pairs, two] for path in some for row in path] + runs

    return averaged(bench, work)


def rates(bench: Bench, claim: Claim) -> Checked:
    """S5: slopes of log distance against log epoch, for each method, with and without ridge, W, M and Z apart.

    `ends_` is the distance at the end to the geometry of the ridge; `falls` the slope of the method and part that is
    the slowest to approach the limit without one; `slower` how much less steep it is than on balanced data.
    """
    s = claim.settings
    skewed, even = (counts_of(kind, classes=s["classes"], least=s["least"]) for kind in (s["skewed"], s["even"]))

    def work(seed: int) -> Both:
        runs = nets.trained(bench, claim, seed) + [
            nets.run(bench, *s["nets"][-1], loss="ce", seed=seed, method=method)
            for method in (s["full_methods"] if bench.scale.full else ())
        ]

        def descent(counts: list[int], name: str, ridge: float) -> list[Row]:
            rows = trajectory(
                bench, loss="ce", counts=counts, method=s["methods"][name], ridge=ridge, seed=seed,
                epochs=bench.scale.free_epochs // s["fewer"].get(name, 1),
            )  # fmt: skip
            return [{"name": name, **row} for row in rows]

        found = {
            (name, kind, ridge): descent(counts, name, ridge)
            for name in s["methods"] for kind, counts in (("skewed", skewed), ("even", even))
            for ridge in (0.0, s["ridge"])
        }  # fmt: skip
        slopes: list[dict[str, Any]] = [
            {"name": name, "counts": kind, "ridge": ridge, **{f"slope_{part}": slope(rows, part) for part in PARTS}}
            for (name, kind, ridge), rows in found.items()
        ]
        free = [row for row in slopes if row["counts"] == "skewed" and not row["ridge"]]
        balanced = [row for row in slopes if row["counts"] == "even" and not row["ridge"]]
        net = [{"name": run["net"], **{f"slope_{part}": nets.slope(run, part) for part in PARTS}} for run in runs]
        numbers = {
            "falls": max(row[f"slope_{part}"] for row in free for part in PARTS),
            "slower": float(np.mean([
                skew[f"slope_{part}"] - plain[f"slope_{part}"]
                for skew, plain in zip(free, balanced, strict=True) for part in PARTS
            ])),
            "net_falls": max(row[f"slope_{part}"] for row in net for part in PARTS),
        }  # fmt: skip
        for name in s["methods"]:
            numbers[f"ends_{name}"] = max(found[name, "skewed", s["ridge"]][-1][part] for part in PARTS)
            last = found[name, "skewed", 0.0][-1]
            numbers[f"control_etf_{name}"] = last["w_etf"] - last["w"]
        return numbers, [*slopes, *net, *(row for rows in found.values() for row in rows)]

    return averaged(bench, work)
