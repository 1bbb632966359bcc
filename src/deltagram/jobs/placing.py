"""Where in a PEFT adapter each tensor of a delta goes: decided from names and layers, before anything is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal

from deltagram.errors import PlanError, SettingError
from deltagram.store.tensors import StoredTensor
from deltagram.training.layers import Layers

Target = Literal["lora", "sparse", "bias", "modules_to_save", "same", "dropped"]
MOVED: Final = ("pruned", "exact", "low_rank")
_FACTORED: Final = ("linear", "transposed", "embedding", "convolution")
_BIASED: Final = ("linear", "transposed", "convolution")


@dataclass(frozen=True, kw_only=True)
class Place:
    """One tensor's place: in which module of the model, of which kind, and under which name there."""

    to: Target
    module: str
    leaf: str
    kind: str

    @property
    def name(self) -> str:
        """The tensor's name in the model."""
        return f"{self.module}.{self.leaf}" if self.module else self.leaf


def place(
    tensors: Mapping[str, StoredTensor], layers: Layers, *, sparse: bool, drop: Sequence[str]
) -> dict[str, Place]:
    """A place for every tensor. Raises PlanError, naming the tensor, for one that PEFT cannot hold."""
    for pattern in drop:
        if not any(fnmatchcase(name, pattern) and tensors[name].form != "same" for name in tensors):
            raise SettingError("--drop", f"{pattern!r} covers no tensor that the delta changes")
    found = {name: _place(name, tensor, layers, sparse=sparse, drop=drop) for name, tensor in tensors.items()}
    saved = {one.module for one in found.values() if one.to == "modules_to_save"}
    saved |= _also_matched(saved, found, layers)
    for name, one in found.items():
        if one.module in saved and one.to != "dropped":
            found[name] = Place(to="modules_to_save", module=one.module, leaf=one.leaf, kind=one.kind)
        elif one.module in saved and tensors[name].base_digest is None:
            raise PlanError(
                name, "is left out, but the rest of its layer is saved whole, and the base has none of it",
                fix=f"leave out the layer with --drop '{one.module}.*'",
            )  # fmt: skip
    return found


def _place(name: str, tensor: StoredTensor, layers: Layers, *, sparse: bool, drop: Sequence[str]) -> Place:
    module, _, leaf = layers.name(name).rpartition(".")
    kind = layers.kind(module)

    def to(target: Target) -> Place:
        return Place(to=target, module=module, leaf=leaf, kind=kind or "leaf")

    if tensor.form == "same":
        return to("same")
    if any(fnmatchcase(name, pattern) for pattern in drop):
        return to("dropped")
    leave = f"leave it out with --drop '{name}', or export --to dense"
    if tensor.base_digest is not None and tensor.base_spec.shape != tensor.spec.shape:
        found = f"has other rows than the base ({tensor.base_spec.shape} -> {tensor.spec.shape})"
        raise PlanError(name, f"{found}, which no adapter can change", fix=leave)
    if kind is None and tensor.base_digest is not None:
        raise PlanError(name, f"{layers.model} has no such tensor once it is loaded", fix=leave)
    if kind == "inner" or not module:
        raise PlanError(name, "belongs to no layer of its own, and PEFT holds layers", fix=leave)
    if leaf == "weight" and tensor.form in MOVED:
        if not sparse and kind in _FACTORED:
            return to("lora")
        if sparse and kind == "linear" and tensor.form == "pruned":
            return to("sparse")
        if sparse and kind in ("linear", "transposed"):
            what = f"is stored {tensor.form}" if kind == "linear" else "belongs to a Conv1D"
            found = f"{what}; PEFT's sparse adapter holds pruned nn.Linear weights"
            raise PlanError(name, found, fix=f"export --to lora, or {leave}")
    if leaf == "bias" and kind in _BIASED:
        return to("bias")
    return to("modules_to_save")


def _also_matched(saved: set[str], places: Mapping[str, Place], layers: Layers) -> set[str]:
    """Layers whose name ends like a saved one's: PEFT takes them for it, so they must be saved too."""
    more = {other for module in saved for other in layers.kinds if other.endswith(module) and other not in saved}
    for other in sorted(more):
        if layers.kinds[other] == "inner" or any(
            p.module == other and p.to in ("lora", "sparse") for p in places.values()
        ):
            raise PlanError(other, "PEFT takes it for another layer that must be saved whole", fix="export --to dense")
    return more
