"""Fixed classifiers: a linear layer that does not train, in the directions of a geometry."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.training import FixedClassifier

EPS32 = float(np.finfo(np.float32).eps)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Simplex:
    """A geometry of which only its classifiers are asked."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def classifier_vectors(self, dim: int, *, seed: int = 0) -> F64:
        if dim < self.classes - 1:
            raise SettingError("dim", f"is {dim}", expected=f"{self.classes - 1} or more")
        left, size, _ = np.linalg.svd(np.eye(self.classes) - 1 / self.classes)
        turned = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]
        found: F64 = (left * size)[:, : self.classes - 1] @ turned[: self.classes - 1]
        return found


def test_it_is_a_linear_layer_without_parameters() -> None:
    vectors, bias = torch.randn(3, 5), torch.randn(3)
    head = FixedClassifier(vectors, bias=bias)
    linear = torch.nn.Linear(5, 3)
    linear.load_state_dict(head.state_dict())
    x = torch.randn(2, 7, 5, requires_grad=True)
    torch.testing.assert_close(head(x), linear(x), rtol=0, atol=0)
    assert (head.in_features, head.out_features) == (linear.in_features, linear.out_features)
    assert not list(head.parameters())
    head(x).sum().backward()
    torch.testing.assert_close(x.grad, vectors.sum(0).expand(2, 7, 5))
    assert repr(head) == "FixedClassifier(in_features=5, out_features=3, bias=True, normalise_features=False)"


def test_normalised_features_give_scaled_cosines() -> None:
    vectors = np.eye(3, 4)
    head = FixedClassifier(vectors, normalise_features=True, scale=16.0)
    x = torch.randn(6, 4)
    torch.testing.assert_close(head(x), 16 * x[:, :3] / x.norm(dim=1, keepdim=True))
    torch.testing.assert_close(head(100 * x), head(x))
    assert bool(head(torch.zeros(1, 4)).isfinite().all())


def test_it_points_as_a_geometry_does() -> None:
    for dim, seed in ((4, 0), (9, 0), (9, 1)):
        head = FixedClassifier.of(Simplex(5), dim, seed=seed, scale=2.0)
        weight = head.weight.double().numpy()
        assert weight.shape == (5, dim)
        assert weight @ weight.T == pytest.approx(4 * (np.eye(5) - 0.2), abs=4 * 8 * dim * EPS32)
    one, other = (FixedClassifier.of(Simplex(5), 9, seed=seed).weight for seed in (0, 1))
    assert float((one - other).norm()) > 0.1
    with pytest.raises(SettingError, match="dim: is 3, expected 4 or more"):
        FixedClassifier.of(Simplex(5), 3)


def test_dtype_and_state_follow() -> None:
    head = FixedClassifier(torch.randn(3, 5), bias=torch.randn(3))
    other = FixedClassifier(torch.randn(3, 5), bias=torch.randn(3))
    other.load_state_dict(head.state_dict())
    x = torch.randn(2, 5)
    torch.testing.assert_close(other(x), head(x), rtol=0, atol=0)
    assert head.to(torch.float64)(x.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert other(x).dtype == torch.bfloat16
    assert set(FixedClassifier(torch.randn(3, 5)).state_dict()) == {"weight"}


def test_features_move_to_their_classifiers() -> None:
    """Free features under a fixed simplex and cross-entropy: each ends along its own classifier."""
    head = FixedClassifier.of(Simplex(4), 6)
    label = torch.arange(4).repeat(3)
    x = (0.1 * torch.randn(12, 6)).requires_grad_()
    step = torch.optim.SGD([x], lr=2.0, weight_decay=0.01)
    for _ in range(300):
        step.zero_grad()
        torch.nn.functional.cross_entropy(head(x), label, reduction="sum").backward()
        step.step()
    assert float(torch.nn.functional.cosine_similarity(x.detach(), head.weight[label]).min()) > 0.999


REFUSED: list[tuple[Any, str]] = [
    (lambda: FixedClassifier([1.0, 2.0]), "vectors: has shape (2,), expected (class, feature)"),
    (lambda: FixedClassifier([[1.0, 2.0]]), "vectors: are of 1 classes, expected 2 or more"),
    (lambda: FixedClassifier([[1.0], [np.nan]]), "vectors: has entries that are not finite, expected finite numbers"),
    (lambda: FixedClassifier([[1.0], [0.0]]), "vectors: of class 1 is zero, expected a direction for each class"),
    (lambda: FixedClassifier(np.eye(2), bias=[1, 2, 3]), "bias: is of 3 classes, expected 2, as vectors are"),
    (lambda: FixedClassifier(np.eye(2), bias=[[1, 2]]), "bias: has shape (1, 2), expected (class)"),
    (lambda: FixedClassifier(np.eye(2), scale=0.0), "scale: is 0.0, expected a finite number above 0"),
    (lambda: FixedClassifier(np.eye(2))(torch.zeros(4, 3)), "FixedClassifier: features are (4, 3), expected (..., 2)"),
]


@pytest.mark.parametrize(("make", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_no_classifier_is_refused(make: Any, said: str) -> None:
    with pytest.raises(SettingError) as fault:
        make()
    assert str(fault.value) == said
