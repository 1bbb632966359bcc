"""What a text classifier's head sees: the inputs of its last linear layer, one a text, batch by batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltagram.arrays import F32, F64
from deltagram.errors import CheckpointError, SettingError
from deltagram.training.embedding import last_real
from deltagram.training.huggingface import libraries
from deltagram.training.loaded import Batch, Loaded


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """The last linear layer of a classifier: its name, module, weights (class, feature) and bias (class), if any."""

    name: str
    module: Any
    weight: F64
    bias: F64 | None


def head_of(run: Loaded) -> Head:
    """The last linear layer that has a row a class. Raises SettingError where the model is no classifier or has none,
    CheckpointError where its folder does not hold the layer's weights.
    """
    folder = str(run.folder)
    if not run.classes:
        found = f"is a {type(run.model).__name__}"
        raise SettingError(folder, found, expected="a sequence classifier", fix="give a .npz of features and labels")
    with libraries() as (torch, _):
        named = run.model.named_modules()
        layers = [(n, m) for n, m in named if isinstance(m, torch.nn.Linear) and m.out_features == len(run.classes)]
    if not layers:
        raise SettingError(folder, f"has no linear layer of {len(run.classes)} outputs", expected="a linear head")
    name, module = layers[-1]
    if any(missing.startswith(f"{name}.") for missing in run.missing):
        raise CheckpointError(folder, f"holds no weights of its head {name}", fix="give a fine-tuned classifier")
    if run.model.config.pad_token_id is None:
        fix = "set it in config.json to the number of the tokenizer's padding token"
        raise CheckpointError(folder, "has no pad_token_id, so texts of unlike length cannot be a batch", fix=fix)
    bias = None if module.bias is None else module.bias.double().cpu().numpy()
    return Head(name=name, module=module, weight=module.weight.double().cpu().numpy(), bias=bias)


def head_inputs(run: Loaded, head: Head, batches: Sequence[Batch]) -> Iterator[tuple[F32, tuple[int, ...]]]:
    """For each batch the head's inputs (sample, feature), and which texts they are of.

    A head that runs on every token is read at the token its logits are taken from: the last one that is not padding.
    Raises CheckpointError where inputs and head do not give the model's logits, as with a head that does more.
    """
    with libraries() as (torch, _):
        seen: list[Any] = []
        handle = head.module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            for batch in batches:
                seen.clear()
                with torch.inference_mode():
                    said = run.model(input_ids=batch.ids, attention_mask=batch.mask).logits
                    inputs = _pooled(seen[-1], batch) if seen else None
                    if inputs is None or not _gives(head.module, inputs, said):
                        found = f"the head {head.name} does not give the model's logits from its inputs alone"
                        raise CheckpointError(
                            str(run.folder), found, expected="logits = W h + b",
                            fix="save features, labels, classifier and bias as a .npz and measure that",
                        )  # fmt: skip
                    yield np.asarray(inputs.float().cpu().numpy()), batch.samples
        finally:
            handle.remove()


def _pooled(inputs: Any, batch: Batch) -> Any:
    """One input a text: of a layer that sees every token, that at the last real one."""
    return inputs if inputs.ndim == 2 else last_real(inputs, batch.mask)


def _gives(module: Any, inputs: Any, said: Any) -> bool:
    """Whether the layer gives these logits, to rounding: float32 sums of as many terms as features, both ways."""
    if inputs.shape[0] != said.shape[0] or said.ndim != 2:
        return False
    size = inputs.abs().amax() * module.weight.abs().amax() * inputs.shape[1] + 1
    return bool(((module(inputs) - said).abs().amax() <= 1e-6 * size).item())
