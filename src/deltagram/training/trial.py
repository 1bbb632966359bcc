"""A pruned delta on a live model, whose divisors can be set again and again; no checkpoint is read again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deltagram.arrays import F64, Bits, as_floats, convert
from deltagram.delta.masks import Mask
from deltagram.delta.stored import LowRank, Pruned, SparseFactor
from deltagram.training.huggingface import libraries
from deltagram.training.loaded import Loaded

Divisors = Mapping[str, float | F64]
Kept = Pruned | LowRank


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """Kept values that have a divisor of their own, on the model's device; a row has `width` entries."""

    positions: Any
    values: Any
    width: int
    rows: int
    divisor: Any = None


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A parameter, its restored dtype, what is under its kept entries (`base`: those, or all of a low-rank one)."""

    parameter: Any
    dtype: Any
    base: Any
    units: tuple[str, ...]
    factors: LowRank | None = None


class Trial:
    """The variant that base, delta and divisors stand for, on the model of `run`; others can be tried at once.

    `run` is the fine-tuned or the restored model: what is not pruned is there already. `base_bits(name)` gives the bit
    patterns of a base tensor. Divisors go by tensor, those of a low-rank tensor T by its factors T:A and T:B. Entries
    are rounded to the restored dtype as `restore` rounds them, so what is measured is what will be restored.
    """

    def __init__(self, run: Loaded, stored: Mapping[str, Kept], base_bits: Callable[[str], Bits]) -> None:
        with libraries() as (torch, _):
            self._torch = torch
        self._names = {id(parameter): name for name, parameter in run.model.named_parameters()}
        self._units: dict[str, _Unit] = {}
        self._places: dict[str, _Place] = {}
        for name, tensor in stored.items():
            take = self._take_factors if isinstance(tensor, LowRank) else self._take
            self._places[name] = take(name, run.parameters[name], tensor, base_bits(tensor.base_name))

    def _take(self, name: str, parameter: Any, tensor: Any, bits: Bits) -> _Place:
        """Put the base under one parameter and remember its kept entries."""
        size, shape = tensor.mask.size, tensor.spec.shape
        self._cover(parameter, bits[:size], tensor)
        width = max(1, tensor.spec.size // shape[0]) if shape else 1
        unit = self._unit(tensor.mask, tensor.values, width=width, device=parameter.device)
        self._units[name] = unit
        exact = as_floats(bits[:size], tensor.base.dtype)[tensor.mask.positions(0, tensor.mask.keep).astype(np.int64)]
        return _Place(
            parameter=parameter, dtype=self._dtype(tensor), units=(name,),
            base=self._torch.from_numpy(exact.astype(np.float32)).to(parameter.device),
        )  # fmt: skip

    def _take_factors(self, name: str, parameter: Any, tensor: Any, bits: Bits) -> _Place:
        self._cover(parameter, bits, tensor)
        for letter, factor in (("A", tensor.a), ("B", tensor.b)):
            self._units[f"{name}:{letter}"] = self._factor(factor, parameter.device)
        exact = as_floats(bits, tensor.base.dtype).astype(np.float32).reshape(tensor.spec.shape)
        return _Place(
            parameter=parameter, dtype=self._dtype(tensor), units=(f"{name}:A", f"{name}:B"),
            base=self._torch.from_numpy(exact).to(parameter.device), factors=tensor,
        )  # fmt: skip

    def _factor(self, factor: SparseFactor, device: Any) -> _Unit:
        return self._unit(factor.mask, factor.values, width=factor.shape[1], device=device)

    def _unit(self, mask: Mask, values: Any, *, width: int, device: Any) -> _Unit:
        positions = mask.positions(0, mask.keep).astype(np.int64)
        return _Unit(
            positions=self._torch.from_numpy(positions).to(device),
            values=self._torch.from_numpy(np.array(values)).to(device),
            width=width,
            rows=max(1, mask.size // width),
        )

    def _cover(self, parameter: Any, bits: Bits, tensor: Kept) -> None:
        seen = as_floats(convert(bits, tensor.base.dtype, tensor.spec.dtype), tensor.spec.dtype).astype(np.float32)
        with self._torch.no_grad():
            parameter.data.view(-1)[: seen.size] = self._torch.from_numpy(seen).to(parameter.device)

    def _dtype(self, tensor: Kept) -> Any:
        torch = self._torch
        named = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
        return named[tensor.spec.dtype]

    @property
    def names(self) -> tuple[str, ...]:
        """What has a divisor: pruned tensors, and the factors of low-rank ones."""
        return tuple(self._units)

    def rows(self, name: str) -> int:
        """How many divisors a tensor or factor can have: its rows that have a base."""
        return self._units[name].rows

    def values(self, name: str) -> Any:
        """The kept values of a tensor or factor, unscaled, a float32 torch tensor."""
        return self._units[name].values

    def replace_values(self, values: Mapping[str, Any]) -> None:
        """Keep other values from now on (what is on the model changes with the next `set`)."""
        self._units |= {name: replace(self._units[name], values=found) for name, found in values.items()}

    def set(self, divisors: Divisors) -> None:
        """Divide the kept values of each tensor or factor named by one number, or by one a row."""
        torch = self._torch
        for name, divisor in divisors.items():
            unit = self._units[name]
            number = torch.from_numpy(np.asarray(divisor, np.float32)).to(unit.values.device)
            self._units[name] = replace(unit, divisor=number)
        with torch.no_grad():
            for place in self._places.values():
                if any(unit in divisors for unit in place.units):
                    scaled = {unit: self._scaled(self._units[unit]) for unit in place.units}
                    self._put(place, scaled)

    def _put(self, place: _Place, scaled: Mapping[str, Any]) -> None:
        if place.factors is not None:
            place.parameter.data[:] = self._product(place, scaled)
        else:
            (name,) = place.units
            moved = (place.base + scaled[name]).to(place.dtype).float()
            place.parameter.data.view(-1)[self._units[name].positions] = moved

    def weights(self, divisors: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The model's parameters under divisors (a number, or one a row) and values that gradients flow into.

        Both torch tensors for every unit of `names`; by parameter name, for `torch.func.functional_call`. The model
        itself does not change.
        """
        found = {}
        for place in self._places.values():
            units = {n: replace(self._units[n], divisor=divisors[n]) for n in place.units}
            if values is not None:
                units = {n: replace(unit, values=values[n]) for n, unit in units.items()}
            scaled = {n: self._scaled(unit) for n, unit in units.items()}
            found[self._names[id(place.parameter)]] = self._changed(place, scaled)
        return found

    def _changed(self, place: _Place, scaled: Mapping[str, Any]) -> Any:
        if place.factors is not None:
            return self._product(place, scaled)
        (name,) = place.units
        moved = (place.base + scaled[name]).to(place.dtype).float()
        flat = place.parameter.data.view(-1).index_put((self._units[name].positions,), moved)
        return flat.view(place.parameter.shape)

    def _scaled(self, unit: _Unit) -> Any:
        divisor = unit.divisor
        return unit.values / (divisor[unit.positions // unit.width] if divisor.ndim else divisor)

    def _product(self, place: _Place, scaled: Mapping[str, Any]) -> Any:
        """Base plus scale x B A, all entries, from both factors' scaled values."""
        low = place.factors
        if low is None:
            raise ValueError("a tensor without factors has no product")
        a, b = (
            self._torch.zeros(shape[0] * shape[1], device=place.base.device)
            .index_put((self._units[name].positions,), scaled[name])
            .view(shape)
            for name, shape in zip(place.units, (low.a.shape, low.b.shape), strict=True)
        )
        moved = b @ a * low.scale
        return (place.base + (moved.T if low.transposed else moved)).to(place.dtype).float()
