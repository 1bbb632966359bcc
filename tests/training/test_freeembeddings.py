"""Free embeddings: against an independent descent, the bound, the class-level program, and refusals."""

import numpy as np
import pytest

from deltagram.errors import SettingError
from deltagram.geometry.contrastive import supervised_contrastive
from deltagram.geometry.designs import orthogonal
from deltagram.geometry.matrix import distance
from deltagram.papers.batchings import Partition
from deltagram.training.freeembeddings import FreeEmbeddings, descend, minimise, unit
from freeframes import TEMPERATURE, bound, loss_and_gradient

LABEL = np.repeat([0, 1, 2], [4, 3, 2])


def free(**given: object) -> FreeEmbeddings:
    told = {"counts": [4, 3, 2], "dim": 6, "temperature": TEMPERATURE, **given}
    return FreeEmbeddings(**told)  # type: ignore[arg-type]


def test_the_bound_is_that_of_the_equation_and_is_attained() -> None:
    batches = [[0, 1, 4, 5], [2, 3, 6, 7, 8], [0, 4, 7, 8, 1]]
    made = free()
    assert made.bound(batches) == pytest.approx(bound(LABEL, batches))
    found = minimise(made, batches)
    assert found.loss == pytest.approx(loss_and_gradient(found.vectors, LABEL, batches)[0])
    assert abs(found.gap) < 1e-9
    assert found.vectors.min() >= 0
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_without_a_relu_it_is_the_class_level_program(seed: int) -> None:
    found = minimise(free(features="free", seed=seed))
    wanted = supervised_contrastive([4, 3, 2], temperature=TEMPERATURE, features="free")
    assert distance(found.geometry().means, wanted.means) < 1e-4
    assert found.bound is None
    assert np.isnan(found.gap)


def test_a_start_that_ends_above_the_bound_is_followed_by_others() -> None:
    """Three rare classes on the one coordinate that frequent ones left: a local minimum."""
    found = minimise(FreeEmbeddings(counts=[60, 60, 60, 2, 2, 2], dim=12, temperature=0.5, seed=3))
    assert found.starts > 1
    assert abs(found.gap) < 1e-9


def test_descent_is_projected_gradient_descent() -> None:
    """Against the gradient straight from the equation."""
    made, rate = free(), 0.1
    at = made.begin()
    sampler = Partition(samples=9, size=5, kind="shuffled", seed=1)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for batch in sampler:
            gradient = loss_and_gradient(at, LABEL, [batch])[1]
            gradient -= (gradient * at).sum(1, keepdims=True) * at  # along the sphere, as norms are divided by
            at[batch] = unit(np.maximum(at - rate * gradient, 0))[batch]
    *_, last = descend(made, Partition(samples=9, size=5, kind="shuffled", seed=1), rate=rate, epochs=2)
    assert last.embedded.vectors == pytest.approx(at)
    assert (last.epoch, last.samples) == (2, 18)


def test_prototypes_hold_embeddings_where_they_are() -> None:
    w = orthogonal(3, dim=6)
    found = minimise(free(prototypes=w, copies=2.0), [[0, 1, 4], [2, 3, 5, 6], [7], [8]])
    assert found.vectors == pytest.approx(w[LABEL], abs=1e-6)
    assert abs(found.gap) < 1e-9
    assert found.spread == pytest.approx(0, abs=1e-9)


def test_starts_depend_on_the_seed_and_their_number() -> None:
    one, other = free(seed=0), free(seed=1)
    assert (one.begin() == free(seed=0).begin()).all()
    assert not np.allclose(one.begin(), other.begin())
    assert not np.allclose(one.begin(), one.begin(1))
    assert free(features="free").begin().min() < 0 <= one.begin().min()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dim": 0}, "dim: is 0, expected 1 or more"),
        ({"features": "cubes"}, "features: 'cubes', expected relu or free"),
        ({"counts": [0, 2]}, "counts"),
        ({"temperature": -1.0}, "temperature: is -1"),
    ],
)
def test_what_makes_no_loss_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        minimise(free(**given))
