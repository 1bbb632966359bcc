"""Two processes with batches of two sizes give value and gradient of one process that has both."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import multiprocessing

from deltagram.losses import SupervisedContrastive
from twocontrastive import CASES, SPLIT, Model, samples, work

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each process wrote."""
    folder = tmp_path_factory.mktemp("two")
    multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [dict(np.load(folder / f"{rank}.npz")) for rank in (0, 1)]


def same(mine: Any, expected: torch.Tensor) -> None:
    numbers = expected.detach().numpy()
    np.testing.assert_allclose(mine, numbers, rtol=1e-6, atol=1e-6 * max(1e-3, np.abs(numbers).max()))


@pytest.mark.parametrize("name", CASES)
def test_value_and_averaged_gradients_are_those_of_one_process(found: Found, name: str) -> None:
    model = Model(**CASES[name])
    value = model(*samples())
    value.backward()
    for rank in (0, 1):
        same(found[rank][f"{name}.value"], value)
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None
            same(found[rank][f"{name}.{key}"], parameter.grad)


def test_a_batch_in_parts_on_each_process(found: Found) -> None:
    model = Model()
    value = model(*samples())
    value.backward()
    for rank in (0, 1):
        same(found[rank]["cached.value"], value)
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None
            same(found[rank][f"cached.{key}"], parameter.grad)


def test_gradients_of_embeddings_are_those_of_one_process(found: Found) -> None:
    x, label = samples()
    for reduction, name in (("mean", "rows.sum"), ("none", "rows.none.grad")):
        z = x.clone().requires_grad_()
        each = SupervisedContrastive(reduction=reduction)(z, label)
        each.sum().backward()
        assert z.grad is not None
        same(np.concatenate([part[name] for part in found]), z.grad)
        if reduction == "none":
            same(np.concatenate([part["rows.none"] for part in found]), each)


def test_one_process_may_have_no_anchor(found: Found) -> None:
    x, _ = samples()
    rows, label = torch.cat([x[:2], x[:2] + 1]), torch.tensor([1, 2, 0, 0])
    for part in found:
        same(part["lonely"], SupervisedContrastive()(rows, label))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nan", "process 1: embeddings: item 0 is not finite, or too long, expected finite numbers"),
        ("features", "embeddings: of other features or dtypes (process 0: 6 of torch.float32, process 1: 5 of "
         "torch.float32), expected the same on each process"),
        ("alone", "SupervisedContrastive: none of 4 items shares its class with another, expected an anchor that has "
         "a positive; sample 2 or more of a class, give 2 views of each item, or prototypes"),
    ],
)  # fmt: skip
def test_a_refusal_on_one_process_is_one_on_both(found: Found, name: str, said: str) -> None:
    for part in found:
        assert str(part[f"refused.{name}"]) == said


def test_batches_of_their_own_would_be_another_loss() -> None:
    x, label = samples()
    loss = SupervisedContrastive()
    parts = (loss(x[:SPLIT], label[:SPLIT]) + loss(x[SPLIT:], label[SPLIT:])) / 2
    assert abs(float(parts - loss(x, label))) > 0.01


def test_without_a_process_group_a_batch_is_the_batch() -> None:
    x, label = samples()
    torch.testing.assert_close(SupervisedContrastive(gather="average")(x, label), SupervisedContrastive()(x, label))
