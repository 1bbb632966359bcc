"""Orthogonal frames: what the contrastive loss makes behind a ReLU (O1), and what cross-entropy does beside it (O2)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deltagram.geometry.contrastive import supervised_contrastive
from deltagram.geometry.matrix import distance
from deltagram.papers import contrastnets as nets
from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.contrastpoints import minimum
from deltagram.papers.measured import Checked, Numbers, averaged
from deltagram.papers.points import Row, counts_of

Both = tuple[Numbers, list[dict[str, Any]]]


def frame(bench: Bench, claim: Claim) -> Checked:
    """O1: free embeddings with a ReLU are a frame at the bound for any counts, without it they are not; networks."""
    s = claim.settings
    counts = {kind: counts_of(kind, classes=s["classes"], least=s["least"]) for kind in s["imbalances"]}

    def work(seed: int) -> Both:
        starts = range(seed * bench.scale.starts, (seed + 1) * bench.scale.starts)
        ended = [
            minimum(bench, counts=n, temperature=t, seed=start)
            for n in counts.values() for t in s["temperatures"] for start in starts
        ]  # fmt: skip
        free = [
            minimum(bench, counts=n, temperature=t, seed=seed, features="free")
            for n in counts.values() if min(n) < max(n) for t in s["temperatures"]
        ]  # fmt: skip
        runs = _over(bench, s["nets"], seed)
        more = _over(bench, s["full_nets"], seed) if bench.scale.full else {}
        numbers = {
            "to_of": max(row["to_of"] for row in ended),
            "gap": max(abs(row["gap"]) for row in ended),
            "spread": max(row["spread"] for row in ended),
            "control_free_to_of": min(row["to_of"] for row in free),
            "control_free_to_etf": min(row["to_etf"] for row in free),
            "control_free_predicted": max(row["predicted"] for row in free),
            **{f"net_{_named(kind)}": run["to_of"] for (_, kind), run in runs.items()},
            "net_beta": max(run["beta_nc"] for run in runs.values()),
            "net_spread": max(run["spread"] for run in runs.values()),
        }  # fmt: skip
        return numbers, [*ended, *free, *runs.values(), *more.values()]

    return averaged(bench, work)


def stays(bench: Bench, claim: Claim) -> Checked:
    """O2: how far Gram matrices move as R grows, of cross-entropy and of the contrastive loss on the same images."""
    s = claim.settings
    images, even, some, most = s["net"]

    def work(seed: int) -> Both:
        kinds = [(images, kind) for kind in (even, some, most)]
        ours, theirs = _over(bench, kinds, seed), _over(bench, kinds, seed, loss="ce")
        more = _beside(bench, s, seed) if bench.scale.full else []
        moves = {
            name: [nets.moved(runs[images, kind], runs[images, even]) for kind in (some, most)]
            for name, runs in (("scl", ours), ("ce", theirs))
        }  # fmt: skip
        numbers = {
            "ce_moves": moves["ce"][1], "scl_moves": moves["scl"][1],
            "more_moved_some": moves["ce"][0] - moves["scl"][0],
            "more_moved_most": moves["ce"][1] - moves["scl"][1],
            "ce_norms": _norms(theirs, images, even, most), "scl_norms": _norms(ours, images, even, most),
            "control_free_moves": _free_moves(ours[images, even], ours[images, most]),
        }  # fmt: skip
        return numbers, [*ours.values(), *theirs.values(), *more]

    return averaged(bench, work)


def _over(
    bench: Bench, kinds: Any, seed: int, *, loss: str | None = None
) -> dict[tuple[str, str], Row]:  # fmt: skip
    return {(images, kind): nets.run(bench, images, kind, seed=seed, loss=loss) for images, kind in kinds}


def _named(kind: str) -> str:
    return kind.replace(":", "_").replace("-", "_")


def _norms(runs: Mapping[tuple[str, str], Row], images: str, even: str, most: str) -> float:
    """How many times the squared norms of frequent over rare classes change, as a logarithm without sign."""
    few = np.asarray(runs[images, most]["counts"])
    rare = few < np.sqrt(few.min() * few.max())
    rare = rare if rare.any() else ~rare

    def ratio(kind: str) -> float:
        squares = np.diag(np.asarray(runs[images, kind]["gram"]))
        return float(squares[~rare].mean() / squares[rare].mean()) if not rare.all() else 1.0

    return abs(float(np.log(ratio(most) / ratio(even))))


def _free_moves(even: Row, most: Row) -> float:
    """What theory has for the same counts and no ReLU: how far the Gram of the contrastive loss moves."""
    one, other = (
        supervised_contrastive(sorted(run["counts"], reverse=True), temperature=nets.TEMPERATURE, features="free")
        for run in (even, most)
    )
    return distance(one.means, other.means)


def _beside(bench: Bench, settings: Mapping[str, Any], seed: int) -> list[Row]:
    """What is not judged: other images, both losses."""
    kinds = settings["full_nets"]
    return [*_over(bench, kinds, seed).values(), *_over(bench, kinds, seed, loss="ce").values()]
