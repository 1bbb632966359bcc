"""Prototypes: embeddings take the prototypes' geometry (Q1), the more of them there are (Q2)."""

from itertools import pairwise
from typing import Any

from deltagram.papers import contrastnets as nets
from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.contrastpoints import minimum
from deltagram.papers.measured import Checked, Numbers, averaged
from deltagram.papers.nets import Contrast
from deltagram.papers.points import Row
from deltagram.papers.protos_texts import texts

Both = tuple[Numbers, list[dict[str, Any]]]


def aligns(bench: Bench, claim: Claim) -> Checked:
    """Q1: simplex without a ReLU, frame with it, and a skewed design, whose own copies are beside equal ones."""
    s = claim.settings
    skewed, copies, t = s["skewed"], s["copies"], s["temperature"]

    def work(seed: int) -> Both:
        def ended(design: str, **more: Any) -> Row:
            told = {"features": "free", "copies": s["many"], **more}
            return minimum(bench, counts=s["counts"], temperature=t, seed=seed, design=design, **told)

        free = {
            "etf": ended("etf"), "skewed": ended(skewed), "equal": ended(skewed, equal=True),
            "of": ended("of", features="relu", copies=1.0, batching="random"),
            "of without ReLU": ended("of"),
        }  # fmt: skip
        runs = {
            "etf": Contrast(design="etf", copies=copies, free=True), "of": Contrast(design="of", copies=copies),
            "skewed": Contrast(design=skewed, copies=copies, free=True),
            "equal": Contrast(design=skewed, copies=copies, free=True, equal=True),
        }  # fmt: skip
        found = {name: nets.run(bench, *s["net"], seed=seed, contrast=contrast) for name, contrast in runs.items()}
        plain = {loss: nets.run(bench, *s["net"], seed=seed, loss=loss) for loss in s["losses"]}
        more = _beside(bench, claim, seed) if bench.scale.full else []
        accuracy = {f"balanced_{name}": run["balanced"] for name, run in {**plain, **found}.items()}
        return {
            "etf": free["etf"]["to_target"], "of": free["of"]["apart"], "skewed": free["skewed"]["to_target"],
            "predicted": max(free[name]["predicted"] for name in ("etf", "skewed")),
            "control_equal": free["equal"]["to_target"],
            "control_of_without_relu": free["of without ReLU"]["to_of"],
            "net_etf": found["etf"]["to_target"], "net_of": found["of"]["to_target"],
            "net_skewed": found["skewed"]["to_etf"] - found["skewed"]["to_target"],
            "control_net_equal": found["equal"]["to_target"] - found["skewed"]["to_target"],
            **accuracy,
        }, [
            *({"name": name, **row} for name, row in free.items()), *found.values(), *plain.values(), *more
        ]  # fmt: skip

    return averaged(bench, work)


def _beside(bench: Bench, claim: Claim, seed: int) -> list[dict[str, Any]]:
    """What is not judged: wider angles of the rare classes, other images, and imbalanced texts."""
    s = claim.settings
    designs = [Contrast(design=name, copies=s["copies"], free=True) for name in (s["skewed"], *s["full_designs"])]
    kinds = [s["net"], *s["full_nets"]]
    swept = [nets.run(bench, *kind, seed=seed, contrast=contrast) for kind in kinds for contrast in designs]
    return swept + texts(bench, seed=seed)


def sweep(bench: Bench, claim: Claim) -> Checked:
    """Q2: distances to the simplex over the copies, and to the frame, for which one copy is enough in any batches."""
    s = claim.settings
    t, counts = s["temperature"], s["counts"]

    def work(seed: int) -> Both:
        def ended(copies: float, design: str, **more: Any) -> Row:
            held: dict[str, Any] = {"design": design, "copies": copies} if copies else {}
            return minimum(bench, counts=counts, temperature=t, seed=seed, **held, **more)

        simplex = {copies: ended(copies, "etf", features="free") for copies in s["copies"]}
        frame = {copies: ended(copies, "of", batching="random") for copies in s["copies"]}
        far = [simplex[copies]["to_etf"] for copies in s["copies"]]
        many = [simplex[copies] for copies in s["copies"] if copies >= s["many"]]
        few = [simplex[copies] for copies in s["copies"] if copies < s["many"]]
        more = _swept(bench, claim, seed) if bench.scale.full else []
        return {
            "least_fall": min(one - other for one, other in pairwise(far)),
            "end": far[-1],
            "predicted": max(row["predicted"] for row in many),
            "predicted_few": max(row["predicted"] for row in few),
            "frame": max(row["apart"] for copies, row in frame.items() if copies),
            "control_no_copies": frame[0]["apart"],
            "control_no_copies_simplex": far[0],
        }, [*({"name": "simplex", **row} for row in simplex.values()),
            *({"name": "frame", **row} for row in frame.values()), *more]  # fmt: skip

    return averaged(bench, work)


def _swept(bench: Bench, claim: Claim, seed: int) -> list[Row]:
    """What is not judged: networks over the copies, simplex and frame."""
    found = []
    for copies in claim.settings["full_copies"]:
        for design, free in (("etf", True), ("of", False)):
            contrast = Contrast(design=design, copies=copies, free=free) if copies else Contrast(free=free)
            found.append(nets.run(bench, *claim.settings["net"], seed=seed, contrast=contrast))
    return found
