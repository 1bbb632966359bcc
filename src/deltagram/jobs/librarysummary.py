"""What a delta or an adapter is, in the few words that a library shows beside its name."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from deltagram.delta.values import name_of
from deltagram.store.adapter import Adapted
from deltagram.store.adapter_config import AdapterConfig
from deltagram.store.deltafile import Delta
from deltagram.store.libraryentry import Told
from deltagram.store.masked import Masked
from deltagram.store.masks import ColumnsMask, ListedMask
from deltagram.store.tensors import ExactTensor, WholeTensor


def delta_summary(delta: Delta) -> Told:
    """Method, share of the entries kept, values and divisors of a delta; several are listed, the commonest first."""
    tensors = delta.manifest.tensors.values()
    units = delta.masked.values()
    codes = [unit.values.setting() for unit in units]
    codes += [entry.values.setting() for entry in tensors if isinstance(entry, WholeTensor) and entry.values]
    whole = "exact" if any(isinstance(entry, ExactTensor) for entry in tensors) else "whole"
    entries = sum(unit.common.size for unit in units)
    return Told(
        method=_listed(_method(unit) for unit in units) or whole,
        keep=sum(unit.mask.keep for unit in units) / entries if entries else None,
        values=_listed(name_of(code) for code in codes), divide_by=_divisors(delta), tuned=delta.manifest.tuned.name,
    )  # fmt: skip


def adapter_summary(adapter: Adapted, config: AdapterConfig) -> Told:
    """Rank and dtype of an adapter."""
    ranks = sorted({factors.rank for name, factors in adapter.products.items() if len(adapter.specs[name].shape) > 1})
    rank = f" {ranks[0]}" if len(ranks) == 1 else f" {ranks[0]} to {ranks[-1]}" if ranks else ""
    names = {"F32": "f32", "BF16": "bf16", "F16": "f16"}
    dtypes = _listed(names.get(spec.dtype, spec.dtype.lower()) for spec in adapter.adapter.specs.values())
    kind = "rslora" if config.use_rslora else "lora"
    return Told(method=f"{kind}{rank}", keep=None, values=dtypes, divide_by="", tuned=adapter.title)


def _method(unit: Masked) -> str:
    mask = unit.mask
    if isinstance(mask, ListedMask):
        return mask.score
    if isinstance(mask, ColumnsMask):
        return "columns" if mask.score == "random" else f"columns-{mask.score}"
    return "random" if mask.kind == "stratified" else mask.kind


def _divisors(delta: Delta) -> str:
    """One number, the range of them, or "rows" where a tensor has one a row."""
    if any(divisor.ndim for divisor in delta.divisors.values()):
        return "rows"
    found = np.array([float(divisor) for divisor in delta.divisors.values()])
    if not found.size:
        return ""
    low, high = f"{found.min():.3g}", f"{found.max():.3g}"
    return low if low == high else f"{low} to {high}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(word for word, _ in Counter(words).most_common())
