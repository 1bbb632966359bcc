"""A pruned delta on a live model, whose divisors can be set again and again in O(kept); no checkpoint is read again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deltagram.arrays import F64, Bits, as_floats, convert
from deltagram.delta.stored import Pruned
from deltagram.training.huggingface import libraries
from deltagram.training.loaded import Loaded

Divisors = Mapping[str, float | F64]


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """One tensor's kept entries on the model's device, in float32; `row` is each entry's row."""

    parameter: Any
    positions: Any
    base: Any
    values: Any
    width: int


class Trial:
    """The variant that base, delta and divisors stand for, on the model of `run`; others can be tried at once.

    `run` is the fine-tuned or the restored model: what is not pruned is there already. `base_bits(name)` gives the bit
    patterns of a base tensor. Entries are rounded to the tuned dtype as `restore` rounds them, so what is measured is
    what will be restored.
    """

    def __init__(self, run: Loaded, stored: Mapping[str, Pruned], base_bits: Callable[[str], Bits]) -> None:
        with libraries() as (torch, _):
            self._torch = torch
            self._dtypes = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
            self._names = {id(parameter): name for name, parameter in run.model.named_parameters()}
            self._stored = dict(stored)
            self._kept = {n: self._take(run.parameters[n], t, base_bits(t.base_name)) for n, t in stored.items()}

    def _take(self, parameter: Any, tensor: Pruned, bits: Bits) -> _Kept:
        """Put the base under one parameter and remember its kept entries."""
        torch = self._torch
        seen = convert(bits[: tensor.mask.size], tensor.base.dtype, tensor.spec.dtype)
        rounded = torch.from_numpy(as_floats(seen, tensor.spec.dtype).astype(np.float32)).to(parameter.device)
        exact = as_floats(bits[: tensor.mask.size], tensor.base.dtype)
        positions = tensor.mask.positions(0, tensor.mask.keep).astype(np.int64)
        with torch.no_grad():
            parameter.data.view(-1)[: tensor.mask.size] = rounded
        device = parameter.device
        return _Kept(
            parameter=parameter,
            positions=torch.from_numpy(positions).to(device),
            base=torch.from_numpy(exact[positions].astype(np.float32)).to(device),
            values=torch.from_numpy(np.array(tensor.values)).to(device),
            width=max(1, tensor.spec.size // tensor.spec.shape[0]) if tensor.spec.shape else 1,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The pruned tensors."""
        return tuple(self._kept)

    def rows(self, name: str) -> int:
        """Rows of a pruned tensor that have a base: how many divisors it can have."""
        kept = self._kept[name]
        return max(1, self._stored[name].mask.size // kept.width)

    def set(self, divisors: Divisors) -> None:
        """Divide the kept values of each tensor named by one number, or by one a row."""
        torch = self._torch
        with torch.no_grad():
            for name, divisor in divisors.items():
                kept = self._kept[name]
                factor = torch.from_numpy(np.asarray(divisor, np.float32)).to(kept.values.device)
                kept.parameter.data.view(-1)[kept.positions] = self._moved(name, factor, kept.values)

    def values(self, name: str) -> Any:
        """The kept values of a tensor, unscaled, a float32 torch tensor."""
        return self._kept[name].values

    def replace_values(self, values: Mapping[str, Any]) -> None:
        """Keep other values from now on (what is on the model changes with the next `set`)."""
        self._kept |= {name: replace(self._kept[name], values=found) for name, found in values.items()}

    def weights(self, divisors: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The model's parameters under divisors (a number, or one a row) and values that gradients flow into.

        Both torch tensors; by parameter name, for `torch.func.functional_call`. The model itself does not change.
        """
        found = {}
        for name, divisor in divisors.items():
            kept = self._kept[name]
            moved = self._moved(name, divisor, kept.values if values is None else values[name])
            flat = kept.parameter.data.view(-1).index_put((kept.positions,), moved)
            found[self._names[id(kept.parameter)]] = flat.view(kept.parameter.shape)
        return found

    def _moved(self, name: str, divisor: Any, values: Any) -> Any:
        kept, dtype = self._kept[name], self._dtypes[self._stored[name].spec.dtype]
        factor = divisor[kept.positions // kept.width] if divisor.ndim else divisor
        return (kept.base + values / factor).to(dtype).float()
