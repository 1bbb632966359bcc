"""Networks on real images, trained once each: their geometry on the way and in the end, and how well they tell classes.

Pixels through a small convolutional network with a last ReLU and a head without a bias, by SGD far past zero error.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64
from deltagram.data.images import Images
from deltagram.data.tables import class_index
from deltagram.geometry.collapse import nc1_ratio
from deltagram.geometry.measure import collapse
from deltagram.geometry.moments import ClassMoments
from deltagram.geometry.problem import Problem
from deltagram.jobs.once import once
from deltagram.jobs.train import train
from deltagram.jobs.trainingdata import training_data
from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.imagesets import ImageSet
from deltagram.papers.points import PARTS, SNAPSHOTS, Row, centring, loss_of, to_limits
from deltagram.records import Record
from deltagram.training.freefeatures import FreeFeatures, log_spaced

SGD: Final[Mapping[str, Any]] = {
    "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 64,
    "schedule": "step", "warmup": 0.0, "clip": 0.0,
}  # fmt: skip
METHODS: Final[Mapping[str, Mapping[str, Any]]] = {
    "sgd": SGD,
    "sgd-no-decay": {**SGD, "weight_decay": 0.0},
    "adamw": {**SGD, "optimizer": "adamw", "learning_rate": 1e-3},
    "sgd-little-decay": {**SGD, "weight_decay": 1e-4},
}
LOSSES: Final[Mapping[str, Mapping[str, Any]]] = {  # what `jobs.train` is told
    "ce": {},
    "weighted": {"class_weight": "balanced"},
    "la": {"loss": "la"},
    "cdt": {"loss": "cdt"},
    "ldt": {"loss": "ldt"},
    "ldt-weights": {"loss": "ldt", "class_weight": "balanced"},
}
OTHERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "vs": {"loss": "vs"},
    "scl": {"loss": "scl"},
    "scl-prototypes": {"loss": "scl-prototypes"},
}
_TARGETS: Final = ("seli", "predicted")  # as the callback calls the geometry of the training's own loss
_NAMES: Final = {"w": "classifiers", "m": "means", "z": "logits"}
_AT_ONCE: Final = 500


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """What embeddings are compared in, and how: batches and prototypes as `jobs.train` takes them.

    `free` is without the ReLU, before which embeddings may have either sign. `equal` gives a design as many copies of
    every class where it would have its own.
    """

    sampler: str = "shuffled"
    rotate: str | None = None
    fixed: bool = False
    free: bool = False
    design: str | None = None
    copies: float | None = None
    equal: bool = False

    @property
    def name(self) -> str:
        """Of its part of a folder's name."""
        batches = [*(["fixed"] * self.fixed), self.sampler, *([f"each-{self.rotate}"] if self.rotate else [])]
        held = [] if self.design is None else [self.design.replace(":", ""), f"copies{self.copies:g}"]
        return "-".join([*batches, *held, *(["equal"] * self.equal), *(["free"] * self.free)])

    def settings(self, classes: int) -> dict[str, Any]:
        """Of `jobs.train`."""
        told: dict[str, Any] = {"sampler": self.sampler, "rotate": self.rotate, "fixed_batches": self.fixed}
        told |= {"activation": "none" if self.free else "relu", "last_relu": not self.free}
        if self.design is not None:
            copies = self.copies if not self.equal or self.copies is None else [self.copies] * classes
            told |= {"design": self.design, "copies": copies}
        return told


@dataclass(frozen=True, kw_only=True)
class Net:
    """A training: images, "step:R" or "long-tail:R", the loss, the method, and whether it is told the wrong counts."""

    images: str
    imbalance: str
    loss: str
    epochs: int
    seed: int
    method: str = "sgd"
    gamma: float = 0.5
    told_wrong: bool = False
    contrast: Contrast | None = None

    @property
    def told(self) -> dict[str, Any]:
        """Its settings, those of a contrastive loss where it has one."""
        return {name: value for name, value in asdict(self).items() if name != "contrast" or value is not None}

    @property
    def name(self) -> str:
        """Of its folder."""
        parts = [self.images, self.imbalance.replace(":", ""), self.loss, f"{self.epochs}epochs", f"seed{self.seed}"]
        more = [self.method] * (self.method != "sgd") + [f"gamma{self.gamma:g}"] * (self.gamma != 0.5)
        more += [] if self.contrast is None else [self.contrast.name]
        return "-".join([*parts, *more, *(["wrong-counts"] * self.told_wrong)])


def trained(bench: Bench, claim: Claim, seed: int) -> list[Row]:
    """Cross-entropy on each set of images and imbalance of the claim, those that only `--full` runs last."""
    chosen = [*claim.settings["nets"], *(claim.settings["full_nets"] if bench.scale.full else ())]
    return [run(bench, images, kind, loss="ce", seed=seed) for images, kind in chosen]


def run(
    bench: Bench, images: str, imbalance: str, *, loss: str, seed: int, method: str = "sgd", gamma: float = 0.5,
    told_wrong: bool = False,
) -> Row:  # fmt: skip
    """Train a network, or find it trained; numbers as `measured` gives them."""
    net = Net(
        images=images, imbalance=imbalance, loss=loss, epochs=bench.scale.image_epochs, seed=seed, method=method,
        gamma=gamma, told_wrong=told_wrong,
    )  # fmt: skip
    return made(bench, net, read=read, measure=measured)


Read = Callable[[Record, Path, Net], Mapping[str, Any]]
Measure = Callable[[Path, Images, Net, Mapping[str, Any]], Mapping[str, Any]]


def made(bench: Bench, net: Net, *, read: Read, measure: Measure) -> Row:
    """Train a network, or find it trained: what `read` makes of its record and trajectory, and `measure` of it."""
    given = bench.image_set(net.images)
    kind = f"{net.imbalance}:{given.largest}"
    data = _images(given, kind, net.seed)
    out = bench.folder / net.name
    watched = out.with_name(f"{out.name}.geometry.jsonl")
    settings = {"last_relu": True, **METHODS[net.method], **_loss_settings(net, data)}

    def work() -> Mapping[str, Any]:
        bench.progress.say(f"{out}: training on {len(data):,} images")
        record = train(
            "convnet", given.source, out, task="images", split="train", imbalance=kind, eval_data=given.source,
            eval_split="test", epochs=net.epochs, geometry=watched, seed=net.seed,
            resume=out.with_name(f"{out.name}.training").exists(), force=True, progress=bench.progress, **settings,
        )  # fmt: skip
        return read(record, watched, net)

    made_from = {"net": net.told, "data": data.digest(), "settings": dict(METHODS[net.method])}
    known = once(out, work, made_from=made_from, progress=bench.progress)
    found = once(
        out, lambda: measure(out, data, net, known), made_from=made_from, measured="geometry", progress=bench.progress
    )  # fmt: skip
    return {"net": net.name, **net.told, **known, **found}


def read(record: Record, watched: Path, net: Net) -> dict[str, Any]:
    """Recall on the test, and the way there."""
    return {"recall": record.numbers["recall"], "trajectory": _trajectory(watched, net)}


def _images(given: ImageSet, imbalance: str, seed: int) -> Images:
    found = training_data(
        "convnet", given.source, None, task="images", text="", label="", split="train", eval_split=None,
        imbalance=imbalance, seed=seed,
    ).train  # fmt: skip
    if not isinstance(found, Images):  # what the task asks for
        raise TypeError(type(found))
    return found


def _counts(data: Images) -> list[int]:
    names = sorted(set(data.label))
    return [data.label.count(name) for name in names]


def _loss_settings(net: Net, data: Images) -> dict[str, Any]:
    """Of `jobs.train`; the wrong counts are the right ones in the order of size turned round."""
    settings = dict({**LOSSES, **OTHERS}[net.loss])
    if net.contrast is not None:
        settings |= net.contrast.settings(len(set(data.label)))
    if settings.get("loss") in ("cdt", "ldt"):
        settings["gamma"] = net.gamma
    if net.told_wrong:
        counts = np.asarray(_counts(data))
        turned = np.empty_like(counts)
        turned[np.argsort(counts, kind="stable")] = np.sort(counts)[::-1]
        settings["class_counts"] = turned.tolist()
    return settings


def measured(folder: Path, data: Images, net: Net, known: Mapping[str, Any]) -> dict[str, Any]:
    """A trained network on the images it was trained on, in evaluation mode: distances, NC1, accuracies.

    Class means are centred by Remark 2 of arXiv 2303.07608. `majority` and `minority` are recalls on the test over
    the classes above and below the geometric mean of the largest and the smallest count (all, if counts are equal).
    """
    features, w, classes = seen_by_head(folder, data)
    label = np.asarray(class_index(data.label, classes, source=data.source))
    moments = ClassMoments.of(features, label, classes=len(w), scatter="trace")
    counts = moments.counts.astype(np.float64)
    problem = _problem(net, moments.counts.tolist())
    found = moments.geometry(w, centring=centring(problem), name=net.name)
    sizes = np.square(found.classifier_norms())
    few, many = groups(counts)
    centred = moments.means - moments.means.mean(0)
    even = np.full(len(counts), 1 / len(counts))
    few_merged = collapse(moments, classifier=w).minority
    return to_limits(found, problem) | {
        "minority_collapse": None if few_merged is None else few_merged.collapse,
        "counts": moments.counts.tolist(),
        "train_accuracy": float(((features @ w.T).argmax(1) == label).mean()),
        **by_size(known["recall"], counts),
        "nc1_ratio": nc1_ratio(moments.variances, centred, within=even, between=even),
        "norm_ratio": float(sizes[many].mean() / sizes[few].mean()),
    }  # fmt: skip


def groups(counts: F64) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which classes are below the geometric mean of the smallest and largest count, and above (all, if equal)."""
    small = counts < np.sqrt(counts.min() * counts.max())
    return (small, ~small) if small.any() else (~small, ~small)


def by_size(recall: Sequence[float | None], counts: F64) -> dict[str, float]:
    """Mean recall of all classes, of those above and of those below the geometric mean of the extreme counts."""
    there = np.array([np.nan if value is None else value for value in recall], np.float64)
    few, many = groups(counts)
    means = {"balanced": there, "majority": there[many], "minority": there[few]}
    return {name: float(values.mean()) for name, values in means.items()}


def _problem(net: Net, counts: list[int]) -> Problem:
    return FreeFeatures(loss=loss_of(net.loss, counts, gamma=net.gamma), counts=counts, dim=len(counts)).problem


def seen_by_head(folder: Path, data: Images) -> tuple[F64, F64, tuple[str, ...]]:
    """What the head sees of each image, the head's weights, and the names of its classes."""
    import torch  # noqa: PLC0415 - an extra

    from deltagram.training.convnet import load  # noqa: PLC0415 - imports torch

    model = load(folder)
    with torch.inference_mode():
        seen = [
            model.features(torch.from_numpy(data.pixels[start : start + _AT_ONCE])).double().numpy()
            for start in range(0, len(data), _AT_ONCE)
        ]
        weight = model.head.weight.detach().double().numpy()
    return np.concatenate(seen), np.asarray(weight, np.float64), model.config.classes


def _trajectory(watched: Path, net: Net) -> list[Row]:
    """Distances over epochs, of features as they were in training: to the loss's own limit and to the simplex."""
    lines = [json.loads(line) for line in watched.read_text("utf-8").splitlines()]
    by_epoch = {round(line["epoch"]): line for line in lines if line["phase"] == "train"}
    rows = []
    for epoch in log_spaced(net.epochs, SNAPSHOTS):
        line = by_epoch[epoch]
        target = next(name for name in _TARGETS if f"gram_distance_{name}_means" in line)
        row = {part: line[f"gram_distance_{target}_{_NAMES[part]}"] for part in PARTS}
        row |= {f"{part}_etf": line[f"gram_distance_etf_{_NAMES[part]}"] for part in ("w", "m")}
        rows.append({"epoch": epoch, **row})
    return rows


def slope(run: Row, part: str) -> float:
    """Of the logarithm of a distance against that of the epoch over a network's whole training; < 0 falls."""
    rows = [row for row in run["trajectory"] if row[part] is not None]
    return float(np.polyfit(np.log([row["epoch"] for row in rows]), np.log([row[part] for row in rows]), 1)[0])
