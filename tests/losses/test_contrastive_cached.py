"""A batch in parts, each encoded twice: the gradient of the whole batch, dropout and all."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from deltagram.errors import SettingError
from deltagram.losses import SupervisedContrastive, cached_backward


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Encoder(nn.Module):
    """Two layers with dropout between them; with `views`, both halves of the output are a view of the item."""

    def __init__(self, *, views: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.4), nn.Linear(32, 8))
        self.views = views

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.layers(x)
        return z.view(len(x), 2, 4) if self.views else z


LOSSES: dict[str, Any] = {
    "plain": SupervisedContrastive,
    "prototypes": lambda: SupervisedContrastive(prototypes=torch.eye(4, 8), trainable=True, copies=3),
    "in, sum": lambda: SupervisedContrastive(variant="in", reduction="sum"),
}
X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 4


def gradients(*modules: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for module in modules for p in module.parameters() if p.grad is not None]


def whole(encoder: nn.Module, loss: nn.Module, parts: Any) -> torch.Tensor:
    """Value and gradients with the graphs of all parts held at once; dropout falls part by part."""
    value: torch.Tensor = loss(torch.cat([encoder(part) for part in parts]), Y)
    value.backward()
    return value.detach()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sizes", [(40,), (10, 10, 10, 10), (1, 17, 22)])
def test_it_is_the_gradient_of_the_whole_batch(name: str, sizes: tuple[int, ...]) -> None:
    encoder, loss = Encoder(), LOSSES[name]()
    parts = X.split(list(sizes))
    torch.manual_seed(7)
    expected = whole(encoder, loss, parts)
    kept = gradients(encoder, loss)
    after = torch.rand(3)
    encoder.zero_grad()
    loss.zero_grad()
    torch.manual_seed(7)
    found = cached_backward(loss, encoder, iter(parts), Y)
    assert not found.requires_grad
    torch.testing.assert_close(torch.rand(3), after)  # later draws are what they would have been
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    size = max(float(part.abs().max()) for part in kept)
    torch.testing.assert_close(gradients(encoder, loss), kept, rtol=1e-6, atol=1e-6 * size)


def test_without_replay_dropout_would_fall_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    from deltagram.losses import contrastive_cached  # noqa: PLC0415 - to be broken here

    monkeypatch.setattr(contrastive_cached, "_set", lambda _: None)
    said = "encoder: part 0 has other embeddings the second time, expected the same; draw random numbers from torch"
    with pytest.raises(SettingError, match=said):
        cached_backward(SupervisedContrastive(), Encoder(), X.split(10), Y)


def test_gradients_add_to_those_that_are_there() -> None:
    encoder = Encoder().eval()
    for _ in range(2):
        cached_backward(SupervisedContrastive(), encoder, X.split(20), Y)
    twice = gradients(encoder)
    encoder.zero_grad()
    whole(encoder, SupervisedContrastive(), [X])
    torch.testing.assert_close(twice, [2 * part for part in gradients(encoder)], rtol=1e-5, atol=1e-5)


def test_views_and_autocast() -> None:
    """Weights that autocast casts in the first pass would have no gradient in the second."""
    encoder, loss = Encoder(views=True), SupervisedContrastive()
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(7)
        whole(encoder, loss, X.split(10))
        kept = gradients(encoder)
        encoder.zero_grad()
        torch.manual_seed(7)
        cached_backward(loss, encoder, X.split(10), Y)
    found = gradients(encoder)
    assert len(found) == len(kept) == 4
    for mine, theirs in zip(found, kept, strict=True):  # parts' gradients are rounded to bfloat16
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0.02 * float(theirs.abs().max()))


class Doubling:
    """A scaler of losses, as autocast's."""

    def scale(self, value: torch.Tensor) -> torch.Tensor:
        return 1024 * value


def test_a_scaler_scales_gradients_and_not_the_value() -> None:
    encoder = Encoder().eval()
    value = cached_backward(SupervisedContrastive(), encoder, X.split(20), Y)
    plain = gradients(encoder)
    encoder.zero_grad()
    scaled = cached_backward(SupervisedContrastive(), encoder, X.split(20), Y, scaler=Doubling())
    torch.testing.assert_close(scaled, value)
    torch.testing.assert_close(gradients(encoder), [1024 * part for part in plain])


def test_parts_are_encoded_without_graphs_and_then_one_by_one_with() -> None:
    held: list[int] = []

    class Watched(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            held.append(len(x) * torch.is_grad_enabled())
            return torch.nn.functional.pad(x, (0, 2)) * scale

    scale = torch.ones((), requires_grad=True)
    cached_backward(SupervisedContrastive(), Watched(), X.split(10), Y)
    assert held == [0] * 4 + [10] * 4


class Forgetful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x[:-1] if self.calls > 1 else x


REFUSED: list[tuple[Any, Any, Any, str]] = [
    (
        SupervisedContrastive(),
        nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)),
        [X],
        "encoder: 1 is batch norm that is training, expected embeddings that do not depend on the part; eval() it, or "
        "use a norm of single items",
    ),
    (SupervisedContrastive(), Encoder(), [], "parts: are none, expected the batch in at least 1 part"),
    (
        SupervisedContrastive(),
        Forgetful(),
        [X],
        "encoder: part 0 has shape (39, 6) the second time, expected (40, 6)",
    ),
    (
        lambda z, _: torch.ones((), requires_grad=True) + 0 * z.detach().sum(),
        Encoder(),
        [X],
        "loss: has no gradient by the embeddings, expected a loss of them",
    ),
    (
        SupervisedContrastive(),
        Encoder(),
        [X, X],
        "labels: have shape (40,) for embeddings (80, 8), expected (80,)",
    ),
]


@pytest.mark.parametrize(("loss", "encoder", "parts", "said"), REFUSED, ids=[row[-1] for row in REFUSED])
def test_what_is_no_batch_in_parts_is_refused(loss: Any, encoder: Any, parts: Any, said: str) -> None:
    with pytest.raises(SettingError) as fault:
        cached_backward(loss, encoder, parts, Y)
    assert str(fault.value) == said


def test_batch_norm_that_does_not_train_is_taken() -> None:
    encoder = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).eval()
    assert bool(cached_backward(SupervisedContrastive(), encoder, X.split(10), Y).isfinite())
