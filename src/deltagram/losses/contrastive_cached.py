"""The gradient of a contrastive loss on a batch that the encoder cannot hold at once.

Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, RepL4NLP 2021 (arXiv
2101.06983), whose chain rule this is: encode without graphs, differentiate the loss by the embeddings, encode again.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from deltagram.errors import SettingError


def cached_backward(
    loss: Callable[[Tensor, Tensor], Tensor],
    encoder: Callable[[Any], Tensor],
    parts: Iterable[Any],
    labels: Tensor,
    *,
    scaler: Any = None,
) -> Tensor:
    """The loss of the whole batch, detached; `.grad` of encoder and loss gets what `backward` of it would add.

    `encoder(part)` gives embeddings (item, feature) or (item, view, feature) of each of `parts`, which follow one
    another in `labels`. Each part is encoded twice, the second time from the same state of torch's generators:
    dropout falls alike. `scaler` is autocast's GradScaler. Under DistributedDataParallel gradients are exchanged
    once, at the last part. Raises SettingError for batch norm that is training, whose statistics would be those of
    a part, and for an encoder that gives other embeddings the second time.
    """
    _check_encoder(encoder)
    held, states, embedded = list(parts), [], []
    if not held:
        raise SettingError("parts", "are none", expected="the batch in at least 1 part")
    with torch.no_grad():
        for part in held:
            states.append(_state())
            embedded.append(encoder(part))
    torch.clear_autocast_cache()  # of weights that were cast where nothing is differentiated
    leaf = torch.cat(embedded).requires_grad_()
    value = loss(leaf, labels)
    (value if scaler is None else scaler.scale(value)).backward()
    if leaf.grad is None:
        raise SettingError("loss", "has no gradient by the embeddings", expected="a loss of them")
    gradients = torch.functional.split(leaf.grad, [len(part) for part in embedded])
    for place, (part, before, state, gradient) in enumerate(zip(held, embedded, states, gradients, strict=True)):
        last = place == len(held) - 1
        with _replayed(state), nullcontext() if last else _unsynchronised(encoder):
            again = encoder(part)
            _check_same(again.detach(), before, place)
            torch.autograd.backward(again, gradient.to(again.dtype))
    return value.detach()


def _check_encoder(encoder: Any) -> None:
    modules: Iterator[tuple[str, Any]] = encoder.named_modules() if isinstance(encoder, torch.nn.Module) else iter(())
    for name, module in modules:
        if isinstance(module, _BatchNorm) and module.training:
            found = f"{name or 'the module'} is batch norm that is training"
            fix = "eval() it, or use a norm of single items"
            raise SettingError("encoder", found, expected="embeddings that do not depend on the part", fix=fix)


def _check_same(again: Tensor, before: Tensor, place: int) -> None:
    """SettingError where the same part gave other embeddings: by more than the rounding of another order of sums."""
    if again.shape != before.shape:
        raise SettingError("encoder", f"part {place} has shape {tuple(again.shape)} the second time",
                           expected=str(tuple(before.shape)))  # fmt: skip
    bound = torch.finfo(before.dtype).eps ** 0.5 * before.abs().amax() if before.numel() else 0.0
    if before.numel() and not bool((again - before).abs().amax() <= bound):
        fix = "draw random numbers from torch alone, and before or inside the encoder, not in both"
        raise SettingError("encoder", f"part {place} has other embeddings the second time", expected="the same",
                           fix=fix)  # fmt: skip


def _state() -> tuple[Tensor, list[Tensor]]:
    """The states of torch's generators: of the processor, and of each CUDA device in use."""
    cuda: Any = torch.cuda
    return torch.get_rng_state(), cuda.get_rng_state_all() if cuda.is_initialized() else []


@contextmanager
def _replayed(state: tuple[Tensor, list[Tensor]]) -> Iterator[None]:
    """Torch's generators as they were; afterwards, as they are now."""
    now = _state()
    _set(state)
    try:
        yield
    finally:
        _set(now)


def _set(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


def _unsynchronised(encoder: Any) -> AbstractContextManager[Any]:
    found: AbstractContextManager[Any] = encoder.no_sync() if hasattr(encoder, "no_sync") else nullcontext()
    return found
