"""Free embeddings under the contrastive loss, measured once each: where they end, and how soon they are near."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from deltagram.data.audit import audit_batches
from deltagram.geometry.contrastive import Features, certified, certified_prototypes
from deltagram.geometry.designnames import named_prototypes
from deltagram.geometry.gram import Geometry
from deltagram.geometry.matrix import Matrix, distance
from deltagram.papers.batchings import case, sampler, with_positives
from deltagram.papers.bench import Bench
from deltagram.papers.contrastnets import distances
from deltagram.papers.points import Row
from deltagram.training.freeembeddings import Embedded, FreeEmbeddings, descend, minimise

EVERY: Final = 2  # epochs between two looks


def minimum(
    bench: Bench, *, counts: Sequence[int], temperature: float, seed: int, features: Features = "relu",
    batching: str = "full", dim: int | None = None, design: str | None = None, copies: float = 1.0, equal: bool = False,
) -> Row:  # fmt: skip
    """Free embeddings at a minimum: how far from the bound, the frame, the simplex, the prototypes and the prediction.

    `apart` is the distance to the frame and the spread within classes; `predicted` is the distance to what `geometry`
    has for one batch of all samples. `audit` is said of the batches before, for these features and prototypes.
    """
    told = {
        "free": "contrastive minimum", "counts": list(counts), "temperature": temperature, "features": features,
        "batching": batching, "dim": dim or 2 * len(counts), "design": design, "copies": copies, "equal": equal,
        "seed": seed,
    }  # fmt: skip
    return told | bench.notes.once(told, lambda: _minimum(told))


def prototypes(told: Mapping[str, Any]) -> tuple[Any, Any]:
    """Vectors and copies a class of what a measurement was told; None without a design."""
    if told["design"] is None:
        return None, 1.0
    counts = np.asarray(told["counts"], np.float64)
    given = [told["copies"]] * len(counts) if told["equal"] else told["copies"]
    return named_prototypes(
        counts, told["design"], given, dim=told["dim"], temperature=told["temperature"]
    )[:2]  # fmt: skip


def _minimum(told: Mapping[str, Any]) -> dict[str, Any]:
    counts, features = told["counts"], told["features"]
    vectors, copies = prototypes(told)
    free = FreeEmbeddings(
        counts=counts, dim=told["dim"], temperature=told["temperature"], features=features, prototypes=vectors,
        copies=copies, seed=told["seed"],
    )  # fmt: skip
    label = free.labels
    batches = case(told["batching"], label, seed=told["seed"])
    audit = audit_batches(
        batches, label, dim=told["dim"], features=features, prototypes=told["design"] == "of" and features == "relu"
    )  # fmt: skip
    found = minimise(free, batches if vectors is not None else with_positives(batches, label))
    return measured(found, vectors) | {
        "predicted": distance(found.geometry().means, _prediction(told, vectors, copies).means),
        "audit": audit.verdict, "starts": found.starts,
    }  # fmt: skip


def _prediction(told: Mapping[str, Any], vectors: Any, copies: Any) -> Geometry:
    counts, features = told["counts"], told["features"]
    if vectors is None:
        return certified(counts, temperature=told["temperature"], features=features)[0]
    return certified_prototypes(
        counts, design=vectors, copies=copies, temperature=told["temperature"], features=features, allow_mismatch=True
    )[0]  # fmt: skip


def measured(found: Embedded, vectors: Any = None) -> dict[str, Any]:
    """Distances and spread of embeddings, and the gap to their bound."""
    geometry, counts = found.geometry(), found.moments.counts.astype(np.float64)
    target = None
    if vectors is not None:
        target = Geometry(name="prototypes", means=Matrix.of_vectors(vectors), counts=counts)
    told = distances(geometry, target)
    gap = None if found.bound is None else found.gap
    return told | {"spread": found.spread, "apart": told["to_of"] + found.spread, "gap": gap}


def walk(
    bench: Bench, *, counts: Sequence[int], temperature: float, batching: str, size: int, rate: float, near: float,
    epochs: int, seed: int,
) -> Row:  # fmt: skip
    """Gradient steps on batches until the Gram of class means is `near` the frame: after how many epochs and samples.

    Where it never is in `epochs`, these are the last ones, and `reached` says no.
    """
    told = {
        "free": "contrastive walk", "counts": list(counts), "temperature": temperature, "batching": batching,
        "size": size, "rate": rate, "near": near, "epochs": epochs, "seed": seed,
    }  # fmt: skip
    return told | bench.notes.once(told, lambda: _walk(told))


def _walk(told: Mapping[str, Any]) -> dict[str, Any]:
    counts = told["counts"]
    free = FreeEmbeddings(counts=counts, dim=2 * len(counts), temperature=told["temperature"], seed=told["seed"])
    chosen = sampler(told["batching"], free.labels, size=told["size"], seed=told["seed"])
    found: dict[str, Any] = {}
    for at in descend(free, chosen, rate=told["rate"], epochs=told["epochs"], every=EVERY):
        off = distances(at.embedded.geometry(), None)["to_of"]
        found = {"epoch": at.epoch, "samples": at.samples, "to_of": off, "reached": off < told["near"]}
        if found["reached"]:
            break
    return found
