"""Classifiers that do not train: what is fixed is where they point, and the features move to them."""

from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import linear, normalize

from deltagram.arrays import F64
from deltagram.errors import SettingError


class _HasVectors(Protocol):
    """A geometry that its classifiers can be taken from."""

    def classifier_vectors(self, dim: int, *, seed: int = 0) -> F64:
        """One vector a class, (class, dim), of its classifiers' Gram."""


class FixedClassifier(torch.nn.Module):
    """`logits = features @ weight.T + bias` with nothing to train, where `torch.nn.Linear` stood.

    `vectors` (class, feature) times `scale` are the buffer `weight`, `bias` (class) is a buffer or None, both in
    torch's default dtype: they follow `.to()` and are in the state dict. `normalise_features` divides features by
    their norm, so that `scale` is the inverse temperature.

    Raises SettingError for vectors that are not (class, feature) and finite, for a class without a direction, and
    for features of another size.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        vectors: ArrayLike,
        *,
        bias: ArrayLike | None = None,
        normalise_features: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        weight = _finite("vectors", vectors, axes="(class, feature)", dims=2)
        if not 0 < scale < float("inf"):
            raise SettingError("scale", f"is {scale}", expected="a finite number above 0")
        if len(weight) < 2:
            raise SettingError("vectors", f"are of {len(weight)} classes", expected="2 or more")
        still = np.flatnonzero(~weight.any(axis=1))
        if len(still):
            raise SettingError("vectors", f"of class {still[0]} is zero", expected="a direction for each class")
        given = None if bias is None else _finite("bias", bias, axes="(class)", dims=1)
        if given is not None and len(given) != len(weight):
            raise SettingError("bias", f"is of {len(given)} classes", expected=f"{len(weight)}, as vectors are")
        self.normalise_features = normalise_features
        dtype = torch.get_default_dtype()
        self.register_buffer("weight", torch.tensor(scale * weight, dtype=dtype))
        self.register_buffer("bias", None if given is None else torch.tensor(given, dtype=dtype))

    @classmethod
    def of(
        cls,
        geometry: _HasVectors,
        dim: int,
        *,
        seed: int = 0,
        bias: ArrayLike | None = None,
        normalise_features: bool = False,
        scale: float = 1.0,
    ) -> Self:
        """Classifiers of a predicted or measured geometry in `dim` features, turned as `seed` draws.

        Prediction for balanced counts gives the simplex frame (ETF), for others SELI. Raises
        SettingError for a geometry that does not fit into `dim` dimensions.
        """
        vectors = geometry.classifier_vectors(dim, seed=seed)
        return cls(vectors, bias=bias, normalise_features=normalise_features, scale=scale)

    @property
    def in_features(self) -> int:
        """Features, as `torch.nn.Linear` calls them."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Classes, as `torch.nn.Linear` calls them."""
        return self.weight.shape[0]

    def forward(self, features: Tensor) -> Tensor:
        """Logits (..., class) of features (..., feature)."""
        if features.shape[-1:] != self.weight.shape[1:]:
            found = f"features are {tuple(features.shape)}"
            raise SettingError("FixedClassifier", found, expected=f"(..., {self.in_features})")
        return linear(normalize(features, dim=-1) if self.normalise_features else features, self.weight, self.bias)

    def extra_repr(self) -> str:
        """What `print` shows beside the name."""
        parts = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{parts}, normalise_features={self.normalise_features}"


def _finite(name: str, values: Any, *, axes: str, dims: int) -> F64:
    """`values` (array or tensor) in float64. Raises SettingError for another number of axes and what is not finite."""
    found = np.asarray(values.tolist() if hasattr(values, "tolist") else values, np.float64)
    if found.ndim != dims:
        raise SettingError(name, f"has shape {found.shape}", expected=axes)
    if not np.isfinite(found).all():
        raise SettingError(name, "has entries that are not finite", expected="finite numbers")
    return found
