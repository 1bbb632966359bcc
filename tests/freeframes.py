"""Free nonnegative unit embeddings that minimise the supervised contrastive loss of given batches, from Eq. (2)."""

import numpy as np

TEMPERATURE = 0.5


def loss_and_gradient(
    embeddings: np.ndarray, label: np.ndarray, batches: list[list[int]], *, fixed: int = 0
) -> tuple[float, np.ndarray]:
    """Sum over batches and anchors; the gradient in the embeddings. The last `fixed` are no anchors and stay."""
    total, slope = 0.0, np.zeros((len(label), len(label)))
    for batch in batches:
        index = np.asarray(batch)
        gram = embeddings[index] @ embeddings[index].T / TEMPERATURE
        np.fill_diagonal(gram, -np.inf)
        same = (label[index][:, None] == label[index]) & ~np.eye(len(index), dtype=bool)
        count = same.sum(axis=1)
        anchor = (count > 0) & (index < len(label) - fixed)
        top = np.where(anchor, gram.max(axis=1, initial=-np.inf), 0)
        expo = np.exp(np.where(np.isfinite(gram), gram - top[:, None], -np.inf))
        mass = np.where(anchor, expo.sum(axis=1), 1)
        positive = same / np.maximum(count, 1)[:, None]
        gram[~np.isfinite(gram)] = 0
        total += float(((np.log(mass) + top) - (positive * gram).sum(axis=1))[anchor].sum())
        part = (expo / mass[:, None] - positive) * anchor[:, None] / TEMPERATURE
        np.add.at(slope, (index[:, None], index), part)
    gradient = (slope + slope.T) @ embeddings
    gradient[len(label) - fixed :] = 0
    return total, gradient


def bound(label: np.ndarray, batches: list[list[int]]) -> float:
    """The least the loss can be (Theorem 2 of arXiv 2306.07960)."""
    total = 0.0
    for batch in batches:
        counts = np.bincount(label[batch])
        for count in counts[counts > 1]:
            total += count * np.log(count - 1 + (len(batch) - count) * np.exp(-1 / TEMPERATURE))
    return float(total)


def minimised(
    label: np.ndarray, batches: list[list[int]], *, dim: int, within: float = 1e-8, prototypes: bool = False
) -> np.ndarray:
    """Projected gradient descent; another random start where one ends in a saddle, above the bound.

    With `prototypes` the first unit vectors are in each batch, as samples that do not move and are no anchors.
    The step halves where the loss would rise. AssertionError where no start of twenty comes `within` of the bound.
    """
    classes = len(np.unique(label))
    fixed = classes if prototypes else 0
    every = np.concatenate([label, np.arange(fixed)])
    batches = [[*batch, *range(len(label), len(every))] for batch in batches]
    least, _ = loss_and_gradient(np.eye(dim)[every], every, batches, fixed=fixed)
    for seed in range(20):
        here = projected(np.random.default_rng(seed).uniform(size=(len(every), dim)))
        here[len(label) :] = np.eye(dim)[:fixed]
        value, gradient = loss_and_gradient(here, every, batches, fixed=fixed)
        step = 0.5
        for _ in range(2000):
            there = projected(here - step * gradient)
            found, slope = loss_and_gradient(there, every, batches, fixed=fixed)
            if found > value:
                step /= 2
                continue
            here, value, gradient, step = there, found, slope, min(step * 1.1, 10)
            if value - least < within:
                return here[: len(label)]
    raise AssertionError(f"{value - least} above the bound")


def projected(embeddings: np.ndarray) -> np.ndarray:
    """Nonnegative and of length 1."""
    positive = np.maximum(embeddings, 0)
    return positive / np.maximum(np.linalg.norm(positive, axis=1, keepdims=True), 1e-12)


def distance(embeddings: np.ndarray, label: np.ndarray) -> float:
    """Of the Gram matrix of class means to that of an orthogonal frame, both of norm 1, plus the spread in classes."""
    means = np.stack([embeddings[label == c].mean(axis=0) for c in np.unique(label)])
    gram = means @ means.T
    frame = np.eye(len(means)) / np.sqrt(len(means))
    spread = float(((embeddings - means[np.unique(label, return_inverse=True)[1]]) ** 2).sum(axis=1).mean())
    return float(np.linalg.norm(gram / np.linalg.norm(gram) - frame)) + spread
