"""What goes into each linear layer on a person's texts: one forward pass, one visit a layer and batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltagram.arrays import F64
from deltagram.training.huggingface import libraries
from deltagram.training.loaded import Batch, Loaded

Visit = Callable[[str, Any], None]


@dataclass(frozen=True, kw_only=True)
class InputMoments:
    """Mean and mean square of each input of a linear layer, over `tokens` real tokens; axes `col`."""

    mean: F64
    square: F64
    tokens: int


def linear_weights(run: Loaded) -> dict[str, tuple[Any, bool]]:
    """The linear layers by the checkpoint name of their weight: the module, and whether it stores `col row`.

    `torch.nn.Linear` stores `row col` (row: output, col: input); the `Conv1D` of GPT-2 the transpose.
    """
    with libraries() as (torch, transformers):
        kinds = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    names = {id(parameter): name for name, parameter in run.parameters.items()}
    return {
        names[id(module.weight)]: (module, not isinstance(module, kinds[0]))
        for module in run.model.modules()
        if isinstance(module, kinds) and id(module.weight) in names
    }


def visit_inputs(run: Loaded, batches: Sequence[Batch], visit: Visit) -> None:
    """Run the model once on `batches`; `visit(name, inputs)` for each linear layer and batch.

    `inputs` is float32 `token col`, real tokens only (for a layer that sees one vector a text, such as a pooler, one
    token a text). A layer that runs twice in a pass is visited twice.
    """
    with libraries() as (torch, _):
        real: list[Any] = []

        def hook(name: str) -> Callable[[Any, Any], None]:
            def look(_module: Any, inputs: Any) -> None:
                x = inputs[0].detach()
                same = x.ndim == 3 and x.shape[:2] == real[0].shape
                visit(name, x[real[0]] if same else x.reshape(-1, x.shape[-1]))

            return look

        handles = [m.register_forward_pre_hook(hook(name)) for name, (m, _) in linear_weights(run).items()]
        try:
            with torch.inference_mode():
                for batch in batches:
                    real[:] = [batch.mask.bool()]
                    run.model(input_ids=batch.ids, attention_mask=batch.mask)
        finally:
            for handle in handles:
                handle.remove()


def input_moments(run: Loaded, batches: Sequence[Batch]) -> dict[str, InputMoments]:
    """Moments of the inputs of every linear layer that runs: what WANDA scores and closed forms of q need."""
    sums: dict[str, tuple[Any, Any, int]] = {}

    def visit(name: str, inputs: Any) -> None:
        x = inputs.double()
        first, second, count = sums.get(name, (0.0, 0.0, 0))
        sums[name] = first + x.sum(0), second + (x * x).sum(0), count + len(x)

    visit_inputs(run, batches, visit)
    return {
        name: InputMoments(
            mean=np.asarray((first / count).cpu(), np.float64),
            square=np.asarray((second / count).cpu(), np.float64),
            tokens=count,
        )
        for name, (first, second, count) in sums.items()
        if count
    }


@dataclass(frozen=True, kw_only=True)
class Signal:
    """How much a layer's output moves with its delta: `square` is E||dW x||^2, `spread` is sum_ij dW_ij^2 E[x_j^2]."""

    square: float
    spread: float


def signals(run: Loaded, batches: Sequence[Batch], differences: Mapping[str, Any]) -> dict[str, Signal]:
    """S^2 and Q of every linear layer in `differences` (float32 tensors, stored as the weight is), in one pass.

    DAREx (arXiv 2410.09344) section 3 with c_ij = dW_ij x_j, summed over outputs and averaged over tokens.
    """
    layers = linear_weights(run)
    sums: dict[str, tuple[float, float, int]] = {}

    def visit(name: str, inputs: Any) -> None:
        if name not in differences:
            return
        delta = differences[name].to(inputs.device)
        delta = delta if layers[name][1] else delta.T
        square, spread, count = sums.get(name, (0.0, 0.0, 0))
        square += float((inputs @ delta).double().square().sum())
        spread += float((inputs.double().square().sum(0) * delta.double().square().sum(1)).sum())
        sums[name] = square, spread, count + len(inputs)

    visit_inputs(run, batches, visit)
    return {n: Signal(square=s / count, spread=q / count) for n, (s, q, count) in sums.items() if count}
