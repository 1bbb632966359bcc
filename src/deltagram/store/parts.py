"""The stored arrays of a delta: which ones a manifest entry implies, and their digests."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from deltagram.arrays import DTYPES, Bits, Spec
from deltagram.delta.masks import BLOCK
from deltagram.delta.values import Floats
from deltagram.errors import FormatError
from deltagram.store.checkpoint import PICKLES
from deltagram.store.digest import tensor_hasher
from deltagram.store.masked import Factor, Masked, masked
from deltagram.store.masks import BernoulliMask, ColumnsMask, ListedMask
from deltagram.store.tensors import ExactTensor, LowRankTensor, PrunedTensor, StoredTensor, StoredValues, WholeTensor


@contextmanager
def damage(where: str) -> Iterator[None]:
    """Turn the plain ValueError of a decoder into a FormatError that says which tensor or file it is."""
    try:
        yield
    except ValueError as fault:
        raise FormatError(where, str(fault), fix="the delta is damaged: fetch or make it again") from None


def may_travel(name: str) -> bool:
    """Whether a companion file may have this relative path: no tensors, no pickles, nothing hidden."""
    parts = name.split("/")
    tensors = name.endswith((".safetensors", ".safetensors.index.json", *PICKLES))
    return len(name.encode()) <= 255 and not tensors and not any(part == "" or part.startswith(".") for part in parts)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One stored array: `name:suffix` in the file."""

    spec: Spec
    data: memoryview


def pattern_words(part: Part) -> Bits:
    """The bit patterns of a stored tensor."""
    patterns: Bits = np.frombuffer(bytes(part.data), DTYPES[part.spec.dtype].bits)
    return patterns


def part_specs(entry: StoredTensor) -> dict[str, Spec | None]:
    """The stored arrays a tensor of this form has: suffix to spec; None for bytes whose count the data decide."""
    if isinstance(entry, WholeTensor):
        return {"whole": entry.spec} if entry.values is None else _value_specs(entry.values, entry.spec.size)
    if isinstance(entry, ExactTensor):
        return {"planes": None}
    if isinstance(entry, LowRankTensor):
        factors = masked("", entry).items()  # ":A" and ":B"
        return {f"{unit[1:]}:{suffix}": spec for unit, kept in factors for suffix, spec in _kept_specs(kept).items()}
    return _kept_specs(entry) if isinstance(entry, PrunedTensor) else {}


def _value_specs(values: StoredValues, count: int) -> dict[str, Spec | None]:
    setting = values.setting()
    plain = isinstance(setting, Floats) and values.pack is None
    return {"values": Spec(dtype=setting.dtype, shape=(count,)) if plain and isinstance(setting, Floats) else None}


def _kept_specs(entry: Masked) -> dict[str, Spec | None]:
    parts = _value_specs(entry.values, entry.mask.keep)
    if isinstance(entry.mask, BernoulliMask):
        parts["counts"] = Spec(dtype="U32", shape=(-(-entry.common.size // BLOCK),))
    elif isinstance(entry.mask, ListedMask):
        parts["positions"] = None
    elif isinstance(entry.mask, ColumnsMask):
        parts["columns"] = Spec(dtype="U32", shape=(entry.mask.columns,))
        if entry.mask.threshold is not None:
            size = entry.mask.entries(entry.common.shape)
            parts["counts"] = Spec(dtype="U32", shape=(-(-size // BLOCK),))
    if not isinstance(entry, Factor) and entry.form == "resized" and entry.extra.size:
        parts["rows"] = entry.extra
    return parts


def payload_digest(parts: Mapping[str, Part]) -> str:
    """blake3 over the tensor digests of a tensor's parts, in the order of their suffixes."""
    digest = blake3()
    for name, part in parts.items():
        hasher = tensor_hasher(name, part.spec)
        hasher.update(part.data)
        digest.update(hasher.digest())
    return digest.hexdigest()
