"""Classifiers on class means of the predicted geometry, with one fault planted in some of the rare classes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64
from deltagram.geometry import predict

CAUSES = ("merged", "small norm", "misaligned", "spread", "prior bias")


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Held-out samples, the classifier, counts of training, and the classes that were spoilt."""

    features: F64
    labels: NDArray[np.int64]
    classifier: F64
    bias: F64
    counts: F64
    spoilt: frozenset[int]


def plant(cause: str | None, seed: int, *, held: int = 150) -> Planted:
    """As many classes, as unequal, in as many dimensions, spoilt as much, as the seed says."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(6, 15))
    rare = int(rng.integers(2, k // 2 + 1))
    counts = np.repeat([50.0 * rng.integers(4, 20), 50.0], [k - rare, rare])
    dim = int(rng.integers(k, 48))
    geometry = predict.seli(counts)
    classifier, means = geometry.classifier_vectors(dim, seed=seed), geometry.mean_vectors(dim, seed=seed)
    means /= np.linalg.norm(means, axis=1).mean()
    classifier *= 6 / np.linalg.norm(classifier, axis=1).mean()
    apart = np.linalg.norm(means[:, None] - means[None], axis=2) + 9 * np.eye(k)
    deviation = np.full(k, apart.min() / 5)
    bias = np.zeros(k)
    few = rng.permutation(np.arange(k - rare, k))[: rng.integers(2, rare + 1)] if rare > 2 else np.arange(k - rare, k)
    spoil = {"merged": _merge, "small norm": _shrink, "misaligned": _turn}
    if cause in spoil:
        spoil[cause](rng, classifier, few)
    elif cause == "spread":
        deviation[few] *= rng.uniform(2.5, 4)
    elif cause == "prior bias":
        bias = rng.uniform(2.5, 4) * np.log(counts / counts.sum())
        few = np.arange(k - rare, k)
    labels = np.repeat(np.arange(k), held)
    features = means[labels] + rng.normal(size=(len(labels), dim)) * deviation[labels][:, None]
    spoilt = frozenset() if cause is None else frozenset(few.tolist())
    return Planted(
        features=features, labels=labels, classifier=classifier, bias=bias, counts=counts, spoilt=spoilt
    )  # fmt: skip


def _merge(rng: np.random.Generator, classifier: F64, few: NDArray[np.int64]) -> None:
    mean = classifier[few].mean(0)
    size = np.linalg.norm(classifier[few], axis=1, keepdims=True)
    classifier[few] = mean / np.linalg.norm(mean) * size + 0.02 * rng.normal(size=(len(few), classifier.shape[1]))


def _shrink(rng: np.random.Generator, classifier: F64, few: NDArray[np.int64]) -> None:
    classifier[few] *= rng.uniform(0.1, 0.3)


def _turn(rng: np.random.Generator, classifier: F64, few: NDArray[np.int64]) -> None:
    for c in few:
        own = classifier[c] / np.linalg.norm(classifier[c])
        off = rng.normal(size=len(own))
        off -= (off @ own) * own
        angle = rng.uniform(1.2, 1.5)
        turned = np.cos(angle) * own + np.sin(angle) * off / np.linalg.norm(off)
        classifier[c] = np.linalg.norm(classifier[c]) * turned
