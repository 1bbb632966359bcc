"""Orthogonal frames: which batches leave one minimiser (O3), and which bring it soon (O4)."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from deltagram.papers import contrastnets as nets
from deltagram.papers.batchings import interpolated
from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.contrastpoints import minimum, walk
from deltagram.papers.measured import Checked, Numbers, averaged
from deltagram.papers.nets import Contrast
from deltagram.papers.points import Row

Both = tuple[Numbers, list[dict[str, Any]]]

BATCHES: Final[Mapping[str, Contrast]] = {  # of networks, by the name of free embeddings' ones
    "fixed": Contrast(fixed=True), "fixed+binding": Contrast(sampler="binding", fixed=True),
    "reshuffled": Contrast(), "reshuffled+binding": Contrast(sampler="binding"),
    "reshuffled+random": Contrast(sampler="enlarged"), "reshuffled+fresh": Contrast(sampler="binding", rotate="batch"),
}  # fmt: skip


def decides(bench: Bench, claim: Claim) -> Checked:
    """O3: the loss ends at its bound for all batches; the frame where, and only where, the audit said so before."""
    s = claim.settings
    t = s["temperature"]

    def work(seed: int) -> Both:
        starts = range(seed * bench.scale.starts, (seed + 1) * bench.scale.starts)

        def ended(batching: str, dim: int, **more: Any) -> list[Row]:
            counts = more.pop("counts", s["counts"])
            return [
                minimum(bench, counts=counts, temperature=t, seed=start, batching=batching, dim=dim, **more)
                for start in starts
            ]  # fmt: skip

        cases = [ended(batching, s["dim"]) for batching in s["cases"]]
        tight = ended("one-split", len(s["counts"]))
        free = ended("random+binding", s["dim"], counts=s["even"], features="free")
        held = ended("random", s["dim"], design="of")
        every = [row for rows in [*cases, tight] for row in rows]
        unique = [row for row in every if row["audit"] == "unique"]
        others = [rows for rows in cases if all(row["audit"] == "not unique" for row in rows)]
        right = [
            (max(row["apart"] for row in rows) <= s["near"]) == (rows[0]["audit"] == "unique")
            for rows in [*cases, tight] if rows[0]["audit"] != "undecided"
        ]  # fmt: skip
        return {
            "gap": max(abs(row["gap"]) for row in every),
            "unique": max(row["apart"] for row in unique),
            "not_unique": min(max(row["apart"] for row in rows) for rows in others),
            "audit_right": float(np.mean(right)),
            "control_repaired": max(row["apart"] for row in every if row["batching"].endswith("+binding")),
            "control_tight": max(row["apart"] for row in tight),
            "control_free": max(row["to_etf"] for row in free),
            "control_prototypes": max(row["apart"] for row in held),
        }, [*every, *free, *held]  # fmt: skip

    return averaged(bench, work)


def speeds(bench: Bench, claim: Claim) -> Checked:
    """O4: epochs (per step) and samples (per image) to the frame, and the way of networks; larger batches beside.

    A run that never is near counts with its last epoch, so that its ratio is a lower bound.
    """
    s = claim.settings

    def work(seed: int) -> Both:
        starts = range(seed * bench.scale.starts, (seed + 1) * bench.scale.starts)
        walks = {
            name: [
                walk(bench, counts=s["counts"], temperature=t, batching=name, size=s["batch"], rate=s["rate"],
                     near=s["near"], epochs=s["epochs"], seed=start)
                for t in s["temperatures"] for start in starts
            ] for name in BATCHES
        }  # fmt: skip
        runs = {name: nets.run(bench, *s["net"], seed=seed, contrast=contrast) for name, contrast in BATCHES.items()}
        more = [
            nets.run(bench, *net, seed=seed, contrast=contrast)
            for net in (s["full_nets"] if bench.scale.full else ()) for contrast in BATCHES.values()
        ]  # fmt: skip

        def times(slow: str, fast: str, unit: str) -> float:
            pairs = zip(walks[slow], walks[fast], strict=True)
            return float(np.exp(np.mean([np.log(one[unit] / other[unit]) for one, other in pairs])))

        numbers = {
            "bound_is_reached": float(np.mean([row["reached"] for row in walks["reshuffled+binding"]])),
            "fixed_per_step": times("fixed", "fixed+binding", "epoch"),
            "reshuffled_per_step": times("reshuffled", "reshuffled+binding", "epoch"),
            "reshuffled_per_image": times("reshuffled", "reshuffled+binding", "samples"),
            "control_random": times("reshuffled+random", "reshuffled+binding", "epoch"),
            "fresh": times("reshuffled+fresh", "reshuffled+binding", "epoch"),
        }  # fmt: skip
        return numbers | _of_nets(runs), [
            *(row for rows in walks.values() for row in rows), *runs.values(), *more
        ]  # fmt: skip

    return averaged(bench, work)


def _of_nets(runs: Mapping[str, Row]) -> Numbers:
    """Distances to the frame in the end, and where as many images were seen: more without binding than with it."""
    last = {name: run["to_of"] for name, run in runs.items()}
    one, bound = runs["reshuffled"], runs["reshuffled+binding"]
    share = _images(one) / _images(bound)
    on_the_way = {name: _at(runs[name], share if name.endswith("binding") else 1.0) for name in runs}
    return {
        "net_fixed": last["fixed"] - last["fixed+binding"],
        "net_reshuffled": last["reshuffled"] - last["reshuffled+binding"],
        "net_per_image": on_the_way["reshuffled"] - on_the_way["reshuffled+binding"],
        "control_net_random": last["reshuffled+random"] - last["reshuffled+binding"],
        "net_fresh": last["reshuffled+fresh"] - last["reshuffled+binding"],
    }


def _images(run: Row) -> float:
    """Images in an epoch of its batches, about: each once, and what is added to each batch."""
    steps = run["steps"] / run["epochs"]
    contrast = run["contrast"]
    added = 0 if contrast["sampler"] == "shuffled" else len(run["counts"])
    return float(sum(run["counts"]) + steps * added)


def _at(run: Row, share: float) -> float:
    """The distance of the embeddings as they were in training, after this share of the epochs."""
    steps = run["trajectory"]
    at = np.array([share * run["epochs"]])
    return float(interpolated(
        at, [step["epoch"] for step in steps], [step["gram_distance_predicted_means"] for step in steps]
    )[0])  # fmt: skip
