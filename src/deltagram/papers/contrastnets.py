"""Networks on real images under contrastive losses, and under cross-entropy beside them: the shape of class means.

Class means are not centred: the frame that they are held against is of the embeddings as the loss compares them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from deltagram.arrays import F64
from deltagram.data.images import Images
from deltagram.data.tables import class_index
from deltagram.geometry import predict
from deltagram.geometry.contrastive import supervised_contrastive
from deltagram.geometry.designnames import named_prototypes
from deltagram.geometry.frames import orthogonal_frame
from deltagram.geometry.gram import Geometry
from deltagram.geometry.matrix import Matrix, distance
from deltagram.geometry.measure import collapse
from deltagram.geometry.moments import ClassMoments
from deltagram.papers.bench import Bench
from deltagram.papers.nets import Contrast, Net, by_size, groups, made, seen_by_head
from deltagram.papers.points import SNAPSHOTS, Row
from deltagram.records import Record
from deltagram.training.freefeatures import log_spaced

TEMPERATURE: Final = 0.1
BOUND: Final = Contrast(sampler="binding", fixed=True)  # the quickest to the frame
_NAMED: Final = ("epoch", "gram_distance_predicted_means", "nc1", "nc1_ratio")


def run(
    bench: Bench, images: str, imbalance: str, *, seed: int, loss: str | None = None, contrast: Contrast | None = None
) -> Row:
    """Train a network, or find it trained, under a contrastive loss or, with a `loss`, under that; its numbers."""
    name = loss or ("scl" if contrast is None or contrast.design is None else "scl-prototypes")
    net = Net(
        images=images, imbalance=imbalance, loss=name, epochs=bench.scale.contrast_epochs, seed=seed,
        method="sgd-little-decay", contrast=None if loss else contrast or BOUND,
    )  # fmt: skip
    return made(bench, net, read=_read, measure=_measured)


def _read(record: Record, watched: Path, net: Net) -> dict[str, Any]:
    """Recalls on the test, what the audit said, the shortfall of the loss, and the way there."""
    told = record.numbers
    found = {"recall": told["recall"], "steps": told["steps"], "training_seconds": told["training_seconds"]}
    if net.contrast is None:
        return found
    embeddings = told["embeddings"]
    found |= {"nearest_recall": told["nearest_class_mean"]["recall"], "audit": told["batches"]["verdict"]}
    found |= {"shortfall": embeddings.get("shortfall")}
    return found | {"trajectory": _trajectory(watched, net.epochs)}


def _trajectory(watched: Path, epochs: int) -> list[Row]:
    """Over epochs, of embeddings as they were in training: the distance to what they tend to, and the spread."""
    lines = [json.loads(line) for line in watched.read_text("utf-8").splitlines()]
    by_epoch = {round(line["epoch"]): line for line in lines if line["phase"] == "train"}
    wanted = sorted({*log_spaced(epochs, SNAPSHOTS), *(epoch for epoch in (5, 20, 40) if epoch <= epochs)})
    return [{name: by_epoch[epoch].get(name) for name in _NAMED} | {"epoch": epoch} for epoch in wanted]


def _measured(folder: Path, data: Images, net: Net, known: Mapping[str, Any]) -> dict[str, Any]:
    """A trained network on the images it was trained on, in evaluation mode.

    `to_of`, `to_etf`, `to_target` are distances of Grams; `beta_nc` is tr(S_W S_B^+) / k, and `spread` tr S_W / tr S_B,
    which sees also what is at right angles to all class means. `gram` (class, class) is of norm 1.
    """
    features, _, classes = seen_by_head(folder, data)
    label = np.asarray(class_index(data.label, classes, source=data.source))
    compared = features if net.contrast is None else features / np.linalg.norm(features, axis=1, keepdims=True)
    moments = ClassMoments.of(compared, label, classes=len(classes))
    geometry, spread = moments.geometry(centring="none"), collapse(moments, weighting="mixed")
    counts = moments.counts.astype(np.float64)
    few, many = groups(counts)
    sizes = np.square(geometry.mean_norms())
    cosines = geometry.mean_cosines()[~np.eye(len(classes), dtype=bool)]
    target = _target(net, counts, dim=features.shape[1])
    found: dict[str, Any] = {
        "counts": moments.counts.tolist(), **distances(geometry, target),
        "beta_nc": None if spread.nc1 is None else spread.nc1 / len(classes), "spread": spread.nc1_ratio,
        "mean_cosine": float(cosines.mean()), "norm_ratio": float(sizes[many].mean() / sizes[few].mean()),
        "gram": (geometry.means.dense() / geometry.means.norm()).tolist(), **by_size(known["recall"], counts),
    }  # fmt: skip
    nearest = known.get("nearest_recall")
    return found if nearest is None else found | {"nearest_balanced": by_size(nearest, counts)["balanced"]}


def distances(geometry: Geometry, target: Geometry | None) -> dict[str, float]:
    """Of Grams of class means that are not centred: to the orthogonal frame, the simplex, and a target."""
    k = geometry.classes
    known = {"to_of": orthogonal_frame(k).means, "to_etf": predict.etf(k).means}
    known |= {} if target is None else {"to_target": target.means}
    return {name: distance(geometry.means, means) for name, means in known.items()}


def _target(net: Net, counts: F64, *, dim: int) -> Geometry | None:
    """What the network's loss tends to."""
    if net.contrast is None:
        return None
    if net.contrast.design is None:
        return supervised_contrastive(
            counts, temperature=TEMPERATURE, features="free" if net.contrast.free else "relu"
        )  # fmt: skip
    return design(net.contrast.design, counts, dim=dim)


def design(name: str, counts: F64, *, dim: int | None = None) -> Geometry:
    """The prototypes of a design by its name."""
    vectors = named_prototypes(counts, name, None, dim=dim, temperature=TEMPERATURE)[0]
    return Geometry(name=name, means=Matrix.of_vectors(vectors), counts=counts)


def moved(one: Row, other: Row) -> float:
    """The distance of the Grams of two networks."""
    return float(np.linalg.norm(np.asarray(one["gram"]) - np.asarray(other["gram"])))
