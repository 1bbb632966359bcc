"""The supervised contrastive loss straight from its equation, in loops; and its minimum over free unit features."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from deltagram.arrays import F64


def terms(
    h: F64,
    labels: list[int],
    *,
    temperature: float,
    prototypes: F64 | None = None,
    copies: ArrayLike = 0.0,
    inside: bool = False,
    prototype_anchors: bool = False,
) -> list[float | None]:
    """A term a sample (then a prototype, if they are anchors): None where it has no positive. Copies are weights."""
    k = 0 if prototypes is None else len(prototypes)
    rows = h if prototypes is None else np.vstack([h, prototypes])
    label = [*labels, *range(k)]
    weight = [1.0] * len(h) + np.broadcast_to(np.asarray(copies, np.float64), k).tolist()
    found: list[float | None] = []
    for i in range(len(rows) if prototype_anchors else len(h)):
        total = drawn = pulled = many = 0.0
        for j in range(len(rows)):
            held = weight[j] - (1.0 if j == i else 0.0)  # of copies of one prototype all but the anchor itself
            cosine = float(rows[i] @ rows[j]) / temperature
            total += held * math.exp(cosine)
            if label[j] == label[i]:
                many += held
                drawn += held * cosine
                pulled += held * math.exp(cosine)
        if many <= 0:
            found.append(None)
        elif inside:
            found.append(math.log(total / (pulled / many)))
        else:
            found.append(math.log(total) - drawn / many)
    return found


def least(
    counts: list[int],
    *,
    temperature: float,
    dim: int,
    prototypes: F64 | None = None,
    copies: float = 0.0,
    seed: int = 0,
) -> tuple[F64, float]:
    """Class means (class, feature) and the loss where quasi-Newton steps over all samples end."""
    labels = np.repeat(np.arange(len(counts)), counts)
    n = len(labels)
    rng = np.random.default_rng(seed)
    w = np.zeros((0, dim)) if prototypes is None else prototypes
    same = labels[:, None] == np.append(labels, np.arange(len(w)))
    weight = np.append(np.ones((n, n)) - np.eye(n), np.full((n, len(w)), copies), axis=1)
    many = (same * weight).sum(1, keepdims=True)
    valid = (many > 0).astype(float)

    def loss(flat: F64) -> tuple[float, F64]:
        size = np.linalg.norm(flat.reshape(n, dim), axis=1, keepdims=True)
        h = flat.reshape(n, dim) / size
        rows = np.vstack([h, w])
        s = h @ rows.T / temperature
        top = weight * np.exp(s - 1 / temperature)
        drawn = same * weight / np.maximum(many, 1e-300)
        value = valid[:, 0] @ (np.log(top.sum(1)) + 1 / temperature - (drawn * s).sum(1))
        by = valid * (top / top.sum(1, keepdims=True) - drawn) / temperature
        slope = by @ rows + by[:, :n].T @ h
        slope -= (slope * h).sum(1, keepdims=True) * h
        return float(value), (slope / size).ravel()

    options = {"maxiter": 20_000, "maxfun": 20_000, "ftol": 1e-16, "gtol": 1e-9, "maxcor": 30}
    found = minimize(loss, rng.standard_normal(n * dim), jac=True, method="L-BFGS-B", options=options)
    h = found.x.reshape(n, dim)
    h = h / np.linalg.norm(h, axis=1, keepdims=True)
    return np.stack([h[labels == c].mean(0) for c in range(len(counts))]), float(found.fun)
