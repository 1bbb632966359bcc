"""What makes no contrastive loss is refused, by its text."""

from typing import Any

import numpy as np
import pytest
import torch

from deltagram.errors import SettingError
from deltagram.losses import SupervisedContrastive as Loss

EYE = torch.eye(3, 4)
MADE: list[tuple[Any, str]] = [
    (lambda: Loss(0), "temperature: is 0, expected a finite number above 0"),
    (lambda: Loss(-0.1), "temperature: is -0.1, expected a finite number above 0"),
    (lambda: Loss(float("nan")), "temperature: is nan, expected a finite number above 0"),
    (lambda: Loss(base_temperature=0), "base_temperature: is 0, expected a finite number above 0"),
    (lambda: Loss(variant="both"), "variant: 'both' is unknown, expected out or in"),
    (lambda: Loss(reduction="avg"), "reduction: 'avg' is unknown, expected none or mean or sum"),
    (lambda: Loss(divisor="batch"), "divisor: 'batch' is unknown, expected valid or all or nonzero"),
    (lambda: Loss(gather="yes"), "gather: 'yes' is unknown, expected average or sum"),
    (lambda: Loss(tile=0), "tile: is 0, expected a number of anchors, at least 1"),
    (lambda: Loss(prototype_anchors=True), "prototype_anchors: is given without prototypes; leave it out"),
    (
        lambda: Loss(prototypes=EYE, prototype_anchors=True, reduction="none"),
        "prototype_anchors: is given with reduction='none', which has an entry an item; leave it out",
    ),
    (lambda: Loss(trainable=True), "trainable: is given without prototypes; give prototypes to start from"),
    (
        lambda: Loss(prototypes=2 * EYE),
        "prototypes: class 0 has norm 2, expected norm 1; divide each by its norm",
    ),
    (
        lambda: Loss(prototypes=[[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]]),
        "prototypes: class 2 has norm 0.989949, expected norm 1; divide each by its norm",
    ),
    (
        lambda: Loss(prototypes=EYE * torch.tensor([1, np.nan, 1])[:, None]),
        "prototypes: class 1 has norm nan, expected norm 1; divide each by its norm",
    ),
    (
        lambda: Loss(prototypes=EYE[0]),
        "prototypes: have shape (4,), expected (class, feature) of at least 2 classes, each of norm 1",
    ),
    (
        lambda: Loss(prototypes=EYE[:1]),
        "prototypes: have shape (1, 4), expected (class, feature) of at least 2 classes, each of norm 1",
    ),
    (
        lambda: Loss(prototypes="etf"),
        "prototypes: are str, expected (class, feature) of at least 2 classes, each of norm 1",
    ),
    (lambda: Loss(prototypes=EYE, copies=-1), "copies: is -1 for class 0, expected a finite number, at least 0"),
    (
        lambda: Loss(prototypes=EYE, copies=[1, 2, -3]),
        "copies: is -3 for class 2, expected a finite number, at least 0",
    ),
    (
        lambda: Loss(prototypes=EYE, copies=[1, 2]),
        "copies: are 2, expected one number, or one for each of 3 prototypes",
    ),
    (lambda: Loss(prototypes=EYE, copies=0), "copies: are 0 for every class; leave prototypes out"),
    (
        lambda: Loss(prototypes=EYE, copies=[1, 0.5, 0], prototype_anchors=True),
        "copies: are 0.5 for class 1, an anchor, expected 0 or at least 1; use prototype_anchors=False, which takes "
        "any number",
    ),
    (
        lambda: Loss(prototypes=EYE, weight=[1, 2]),
        "SupervisedContrastive: weight has 2 and prototypes has 3 classes, expected one number of classes",
    ),
    (lambda: Loss(class_weight="balanced"), "class_weight: is 'balanced' without counts; give class_counts"),
    (
        lambda: Loss(prototypes=EYE, class_weight={3: 1.0}),
        "class_weight: has a weight for class 3, expected classes 0 to 2",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "said"), MADE, ids=[said for _, said in MADE])
def test_settings_are_refused(make: Any, said: str) -> None:
    with pytest.raises(SettingError) as fault:
        make()
    assert str(fault.value) == said


Z, Y = torch.ones(4, 4), torch.tensor([0, 0, 1, 2])
NAN = Z * torch.tensor([1, 1, np.nan, 1])[:, None]
ALONE = (
    "SupervisedContrastive: none of 4 items shares its class with another, expected an anchor that has a positive; "
    "sample 2 or more of a class, give 2 views of each item, or prototypes"
)
CALLED: list[tuple[Loss, Any, Any, str]] = [
    (Loss(), NAN, Y, "embeddings: item 2 is not finite, or too long, expected finite numbers"),
    (Loss(normalise=False), NAN, Y, "embeddings: item 2 is not finite, or too long, expected finite numbers"),
    (Loss(normalise=False), 1e19 * Z, Y, "embeddings: item 0 is not finite, or too long, expected finite numbers"),
    (Loss(), Z.log() / 0, Y, "embeddings: item 0 is not finite, or too long, expected finite numbers"),
    (
        Loss(),
        torch.stack([Z, NAN], 1),
        torch.tensor([-100, 1, 1, 2]),
        "embeddings: item 5 is not finite, or too long, expected finite numbers",
    ),
    (Loss(), Z.long(), Y, "embeddings: are torch.int64, expected a tensor of floating point numbers"),
    (Loss(), Z.numpy(), Y, "embeddings: are ndarray, expected a tensor of floating point numbers"),
    (Loss(), Z[0], Y, "embeddings: have shape (4,), expected (batch, feature) or (batch, view, feature)"),
    (Loss(prototypes=EYE), Z[:, :3], Y, "embeddings: have 3 features, expected 4, as the prototypes have"),
    (Loss(), Z, Y.float(), "labels: are torch.float32, expected a tensor of integers, one class an item"),
    (Loss(), Z, Y.bool(), "labels: are torch.bool, expected a tensor of integers, one class an item"),
    (Loss(), Z, Y.tolist(), "labels: are list, expected a tensor of integers, one class an item"),
    (Loss(), Z, Y[:3], "labels: have shape (3,) for embeddings (4, 4), expected (4,)"),
    (Loss(), Z[:, None], Y[:, None], "labels: have shape (4, 1) for embeddings (4, 1, 4), expected (4,)"),
    (Loss(prototypes=EYE), Z, Y + 1, "labels: have 3, expected 0 to 2, or -100 to ignore an item"),
    (Loss(weight=[1, 2, 3]), Z, Y - 1, "labels: have -1, expected 0 to 2, or -100 to ignore an item"),
    (Loss(), Z, torch.arange(4), ALONE),
    (Loss(reduction="none"), Z, torch.arange(4), ALONE),
    (Loss(reduction="sum", plain=True), Z, torch.arange(4), ALONE),
    (
        Loss(),
        Z[:1],
        Y[:1],
        "SupervisedContrastive: the batch has 1 item, expected at least 2 that have labels, or prototypes",
    ),
    (
        Loss(),
        Z,
        torch.full((4,), -100),
        "SupervisedContrastive: the batch has 0 items, expected at least 2 that have labels, or prototypes",
    ),
    (
        Loss(prototypes=EYE),
        Z[:0],
        Y[:0],
        "SupervisedContrastive: the batch has 0 items, expected at least 1 that has a label",
    ),
    (Loss(weight=[0, 2, 3]), Z, Y, "SupervisedContrastive: the weights of all anchors are 0, expected one above 0"),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "z", "y", "said"), CALLED, ids=[f"{i} {row[-1]}" for i, row in enumerate(CALLED)])
def test_batches_are_refused(loss: Loss, z: Any, y: Any, said: str) -> None:
    with pytest.raises(SettingError) as fault:
        loss(z, y)
    assert str(fault.value) == said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_norms_may_be_off_by_the_rounding_of_their_dtype_and_no_more(dtype: torch.dtype) -> None:
    rows = torch.nn.functional.normalize(torch.randn(50, 384, generator=torch.Generator().manual_seed(0)))
    Loss(prototypes=rows.to(dtype))
    off = 3 * torch.finfo(dtype).eps + 1e-5
    with pytest.raises(SettingError, match="has norm"):
        Loss(prototypes=(rows * (1 + off)).to(dtype))


def test_a_prototype_makes_a_positive_of_the_lonely() -> None:
    assert bool(Loss(prototypes=EYE)(Z[:1], Y[:1]).isfinite())


def test_bytes_are_labels_too() -> None:
    z = torch.randn(4, 4)
    torch.testing.assert_close(Loss()(z, Y.to(torch.uint8)), Loss()(z, Y))


def test_a_loss_says_what_it_is() -> None:
    assert (
        repr(Loss()) == "SupervisedContrastive(any number of classes, temperature=0.1 variant='out' reduction='mean')"
    )
    loss = Loss(prototypes=EYE, weight=[1, 2, 3])
    said = "SupervisedContrastive(3 classes, temperature=0.1 prototypes weight variant='out' reduction='mean')"
    assert repr(loss) == said
