"""One linear layer's output change on its inputs: what theory predicts of a mask, beside what the mask does.

Arrays in, sums out; the sums of several batches add up (`Sums + Sums`), and `Sums.row` makes them means and roots.
DAREx (arXiv 2410.09344) section 3, with terms c_ij = dW_ij x_j; formulas in `moments` and `bounds`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

from deltagram.arrays import F32, F64
from deltagram.delta import bounds, moments

_S = TypeVar("_S", "Sums", "Divided")
GAMMA = 0.05  # how often the reported bound may be exceeded, at most


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A pruned linear layer, matrices `row col` (row: output): fine-tuned weight, its delta, the kept part of that.

    `keep` is the share a random mask keeps, None where entries were chosen: then nothing is predicted.
    """

    weight: F32
    delta: F32
    kept: F32
    keep: float | None


@dataclass(frozen=True, kw_only=True)
class Divided:
    """Sums over tokens and rows of a layer's change h under one divisor."""

    square: float = 0.0
    absolute: float = 0.0
    predicted: float = 0.0
    bound: float = 0.0
    beyond: int = 0

    def __add__(self, other: "Divided") -> "Divided":
        return _added(self, other)


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums over tokens and rows of a layer: its output W x, its delta's dW x (signal), and the terms c.

    `magnitude` sums |dW_ij|; `entries` counts outputs (tokens times rows), `terms` tokens times entries of the matrix.
    """

    entries: int = 0
    terms: int = 0
    output: float = 0.0
    magnitude: float = 0.0
    signal: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return _added(self, other)

    def row(self, keep: float | None) -> dict[str, Any]:
        """Means of |dW| and the terms, their deviation; rms over outputs of W x, dW x and sqrt(Q); the best divisor."""
        mean = self.total / self.terms
        found = {
            "mean_delta": self.magnitude / self.terms,
            "mean_c": mean,
            "sd_c": math.sqrt(max(0.0, self.squares / self.terms - mean**2)),  # float64; the mean is the smaller
            "rms_squares": math.sqrt(self.squares / self.entries),
            "rms_signal": math.sqrt(self.signal / self.entries),
            "rms_output": math.sqrt(self.output / self.entries),
        }
        if keep is None:
            return found
        best = float(moments.best_divisor(self.signal, self.squares, keep=keep))
        least = float(moments.least_mean_square(self.signal, self.squares, keep=keep))
        return found | {"best_divisor": best, "best_rms": math.sqrt(least / self.entries)}

    def divided(self, found: Divided, keep: float | None) -> dict[str, Any]:
        """Measured rms and mean |h|; where predicted, also the rms, the mean bound and the share beyond the bound."""
        measured = {"rms": math.sqrt(found.square / self.entries), "mean_absolute": found.absolute / self.entries}
        if keep is None:
            return measured
        return measured | {
            "predicted_rms": math.sqrt(found.predicted / self.entries),
            "bound": found.bound / self.entries,
            "beyond_bound": found.beyond / self.entries,
        }


def measure(layer: Layer, inputs: F32, divisors: Mapping[str, F64]) -> tuple[Sums, dict[str, Divided]]:
    """Sums of one batch of inputs `token col`: of the layer, and of its change under each named divisor.

    A divisor is `(1, 1)`, one a row `(row, 1)` or one a column `(1, col)`. Predicted is E h^2 over independent masks,
    the bound that of `bounds.kearns_saul` at gamma = 0.05, each token and row by itself.
    """
    whole = _products(layer, inputs)
    sums = Sums(
        entries=whole.total.size,
        terms=len(inputs) * layer.delta.size,
        output=float(np.sum(np.square(inputs @ layer.weight.T, dtype=np.float64))),
        magnitude=len(inputs) * float(np.sum(np.abs(layer.delta), dtype=np.float64)),
        signal=float(np.sum(whole.total**2)),
        total=float(np.sum(whole.total)),
        squares=float(np.sum(whole.squares)),
    )
    found = {}
    for name, divisor in divisors.items():
        by_column = divisor.shape[1] > 1
        part = _products(layer, inputs / divisor[0].astype(np.float32)) if by_column else whole
        q = np.ones(1) if by_column else divisor[:, 0]
        change = whole.total - part.kept / q
        found[name] = Divided(square=float(np.sum(change**2)), absolute=float(np.sum(np.abs(change))))
        if layer.keep is not None:
            mean, squares = whole.total - layer.keep * part.total / q, part.squares / q**2
            found[name] += _predicted(change, mean, squares, keep=layer.keep)
    return sums, found


@dataclass(frozen=True, kw_only=True)
class _Products:
    """S and Q of each token and row, and the sum over kept entries."""

    total: F64
    squares: F64
    kept: F64


def _products(layer: Layer, inputs: F32) -> _Products:
    return _Products(
        total=np.asarray(inputs @ layer.delta.T, np.float64),
        squares=np.asarray(inputs**2 @ (layer.delta**2).T, np.float64),
        kept=np.asarray(inputs @ layer.kept.T, np.float64),
    )


def _predicted(change: F64, mean: F64, squares: F64, *, keep: float) -> Divided:
    """What moments and bound say of changes whose terms, divided by q, have these `squares`."""
    variance = moments.bernoulli(0.0, squares, keep=keep, divide_by=1.0).variance
    bound = np.abs(mean) + bounds.deviation(squares, keep=keep, divide_by=1.0, gamma=GAMMA)
    return Divided(
        predicted=float(np.sum(moments.Moments(mean=mean, variance=variance).mean_square)),
        bound=float(np.sum(bound)),
        beyond=int(np.count_nonzero(np.abs(change) > bound)),
    )


def _added(one: _S, other: _S) -> _S:
    return type(one)(**{field.name: getattr(one, field.name) + getattr(other, field.name) for field in fields(one)})
