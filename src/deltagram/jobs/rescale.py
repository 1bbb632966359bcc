"""Another divisor for a pruned delta, without either model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.jobs.planning import divisor_number
from deltagram.records import Meter, Record
from deltagram.store import scales
from deltagram.store.deltafile import Delta, open_delta
from deltagram.store.masked import Masked
from deltagram.store.staging import staged_file
from deltagram.store.tensors import BernoulliMask

Divisors = Mapping[str, float | F64]


def rescale(delta: Path | str, *, divide_by: float | str | Divisors) -> Record:
    """Replace `scales.safetensors` alone, atomically: every kept value will be divided by `divide_by`.

    `divide_by`: "dare" (each tensor's kept share), a number for all, or a mapping from tensor names to a number
    or to one number a row; tensors it does not name keep theirs. DAREx-q, arXiv 2410.09344, 3. The factors of a
    low-rank tensor T are named T:A and T:B: a number for all divides both, and so their product by its square.

    Raises FormatError for a damaged delta, SettingError for a divisor or name that cannot be.
    """
    meter = Meter.start()
    opened = open_delta(delta)
    pruned = opened.masked
    if not pruned:
        raise SettingError(str(delta), "has no pruned tensor to rescale")
    chosen = _divisors(opened, pruned, divide_by)
    data = scales.scales_bytes(chosen, opened.digest)
    path = Path(delta) / scales.NAME
    with staged_file(path, force=True) as place:
        place.write_bytes(data)
    shown = divide_by if isinstance(divide_by, float | int | str) else sorted(divide_by)
    numbers = {**meter.numbers(), "tensors": len(pruned), "scales_bytes": len(data)}
    return Record(job="rescale", settings={"delta": str(delta), "divide_by": shown}, numbers=numbers)


def _divisors(delta: Delta, pruned: Mapping[str, Masked], divide_by: float | str | Divisors) -> dict[str, F64]:
    if isinstance(divide_by, Mapping):
        unknown = sorted(set(divide_by) - set(pruned))
        if unknown:
            raise SettingError("divide-by", f"{unknown[0]} is not a pruned tensor or factor of {delta.path}")
        given = {name: np.asarray(value, np.float64) for name, value in divide_by.items()}
        for name, value in given.items():
            rows = pruned[name].common.shape[:1]
            if value.shape not in ((), rows):
                raise SettingError(f"divide-by of {name}", f"has shape {value.shape}", expected=f"() or {rows}")
        return {name: given.get(name, delta.divisors[name]) for name in pruned}
    if divide_by == "dare":
        return {name: np.array(dare_divisor_of(tensor), np.float64) for name, tensor in pruned.items()}
    return dict.fromkeys(pruned, np.array(divisor_number(divide_by), np.float64))


def dare_divisor_of(tensor: Masked) -> float:
    """The share of entries a stored mask keeps: its probability (Bernoulli) or its exact count (others)."""
    if isinstance(tensor.mask, BernoulliMask):
        return tensor.mask.threshold / (1 << 32)
    return tensor.mask.keep / tensor.common.size
