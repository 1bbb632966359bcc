"""The base: its tensors once in memory, verified, under the variant that is on them now."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deltagram.arrays import Bits, Spec, convert
from deltagram.delta.changes import Change, Patch
from deltagram.delta.patch import Live
from deltagram.errors import BaseError, CheckpointError, PatchError, SettingError
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.manifest import base_reference

FLOATS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


class Swaps(Protocol):
    """Tensors in use, and the patch that is on them."""

    current: Patch | None

    def swap(self, patch: Patch | None) -> None:
        """Take off what is on, put `patch` on. Raises PatchError, with nothing moved, where an entry is not as told."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BaseModel:
    """A checkpoint in memory. `tensors` are in `dtype` where they hold floats; their memory is what variants patch."""

    checkpoint: Checkpoint
    folder: Path
    digest: str
    tensors: Mapping[str, Any]
    dtype: str
    device: str
    live: Swaps

    @property
    def nbytes(self) -> int:
        """Memory the tensors take."""
        return sum(int(tensor.nbytes) for tensor in self.tensors.values())

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What config.json says."""
        return read_config(self.folder)

    def held(self, name: str) -> str:
        """The dtype in which a tensor is held."""
        spec = self.checkpoint.specs[name]
        return FLOATS[self.dtype] if spec.floating else spec.dtype

    def moved(self, change: Change, stored: str) -> Change:
        """A change of the checkpoint's entries (dtype `stored`) as one of the tensors in memory."""
        held = self.held(change.name)
        before, after = (convert(bits, stored, held) for bits in (change.before, change.after))
        return Change(name=change.name, positions=change.positions, before=before, after=after)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder. Raises CheckpointError where it is missing or no JSON object."""
    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as fault:
        raise CheckpointError(str(folder / "config.json"), f"cannot be read ({fault})") from None
    if not isinstance(found, dict):
        raise CheckpointError(str(folder / "config.json"), "holds no JSON object")
    return found


def load_base(
    torch: Any, path: Path, *, digest: str | None = None, dtype: str = "auto", device: str = "cpu",
    threads: int | None = None,
) -> BaseModel:  # fmt: skip
    """Read and verify a base. `dtype` "auto" is that of most of its entries.

    Raises CheckpointError for what is no model folder, BaseError where it has another digest than a library says,
    SettingError for a dtype or a device that there is not.
    """
    checkpoint = open_checkpoint(path)
    if checkpoint.folder is None:
        raise CheckpointError(str(path), "is a file without a config.json", expected="a model folder")
    digests = {name: (checkpoint.digest(name), spec) for name, spec in checkpoint.specs.items()}
    found = base_reference(checkpoint.title, digests).digest
    if digest is not None and found != digest:
        raise BaseError(str(path), f"has digest {found}", expected=digest, fix="give the base of this library")
    held = _held(checkpoint, dtype)
    _check_device(torch, device)
    tensors = {
        name: tensor_of(torch, checkpoint.bits(name, 0, spec.size), spec, dtype=held).to(device)
        for name, spec in checkpoint.specs.items()
    }
    live: Swaps = Live(tensors, threads=threads) if device == "cpu" else TensorSwaps(torch, tensors)
    return BaseModel(
        checkpoint=checkpoint, folder=checkpoint.folder, digest=found, tensors=tensors, dtype=held, device=device,
        live=live,
    )  # fmt: skip


def _held(checkpoint: Checkpoint, dtype: str) -> str:
    if dtype in FLOATS:
        return dtype
    if dtype != "auto":
        raise SettingError("--dtype", f"{dtype!r} is unknown", expected=f"auto, {', '.join(FLOATS)}")
    sizes: dict[str, int] = {}
    for spec in checkpoint.specs.values():
        if spec.floating:
            sizes[spec.dtype] = sizes.get(spec.dtype, 0) + spec.size
    most = max(sizes, key=lambda name: sizes[name], default="F32")
    return next((name for name, short in FLOATS.items() if short == most), "float32")


def _check_device(torch: Any, device: str) -> None:
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise SettingError("--device", f"{device!r} is unknown", expected="cpu, cuda or cuda:N")
    if device != "cpu" and not torch.cuda.is_available():
        raise SettingError("--device", f"{device!r}, but this torch sees no GPU", fix="take --device cpu")


def tensor_of(torch: Any, bits: Bits, spec: Spec, *, dtype: str) -> Any:
    """A tensor of these bit patterns in memory of its own, floats in `dtype`.

    Raises CheckpointError for a dtype that nothing here computes in.
    """
    held = FLOATS[dtype] if spec.floating else spec.dtype
    kinds = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16", "BOOL": "bool", "U8": "uint8",
             "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"}  # fmt: skip
    if held not in kinds:
        raise CheckpointError("", f"a tensor is {spec}", expected=f"one of {', '.join(kinds)}")
    words = np.array(convert(bits, spec.dtype, held) if spec.floating else bits)
    return torch.from_numpy(words.view(np.uint8)).view(getattr(torch, kinds[held])).reshape(spec.shape)


class TensorSwaps:
    """Patches on tensors of any device, by torch's own gather and scatter."""

    def __init__(self, torch: Any, tensors: Mapping[str, Any]) -> None:
        self._torch = torch
        words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        self._flat = {name: t.reshape(-1).view(words[t.element_size()]) for name, t in tensors.items()}
        self.current: Patch | None = None

    def swap(self, patch: Patch | None) -> None:
        """Take off what is on, put `patch` on. Raises PatchError, with nothing moved, where an entry is not as told."""
        off = () if self.current is None else [*self.current.changes.values()]
        done: list[tuple[Any, Any, Any]] = []
        try:
            for change in off:
                self._exchange(change, change.after, change.before, done)
            for change in () if patch is None else patch.changes.values():
                self._exchange(change, change.before, change.after, done)
        except PatchError:
            for flat, at, old in reversed(done):
                flat[at] = old
            raise
        self.current = patch

    def _exchange(self, change: Change, expected: Bits, new: Bits, done: list[tuple[Any, Any, Any]]) -> None:
        flat = self._flat[change.name]
        at = slice(None) if change.positions is None else self._moved(change.positions.astype(np.int64), flat)
        old = self._moved(expected.view(f"i{expected.itemsize}"), flat)
        if not self._torch.equal(flat[at], old):
            raise PatchError(change.name, "was changed by someone else", fix="load the base anew")
        flat[at] = self._moved(new.view(f"i{new.itemsize}"), flat)
        done.append((flat, at, old))

    def _moved(self, array: Any, like: Any) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(like.device)
