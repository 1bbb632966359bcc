"""Which optimiser moves which parameters, and what they are pulled to."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from deltagram.arrays import DTYPES, Bits, Spec
from deltagram.delta.names import match
from deltagram.delta.plan import HEADS
from deltagram.errors import PlanError, SettingError
from deltagram.training.recipe import Recipe

_TORCH: Final = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True, kw_only=True)
class Base:
    """A checkpoint's tensors: what the headers say, and the bit patterns of one, mapped from its file."""

    specs: Mapping[str, Spec]
    bits: Callable[[str], Bits]

    def tensor(self, torch: Any, name: str) -> Any:
        """A torch tensor over the mapped memory; nobody may write to it."""
        spec = self.specs[name]
        signed = self.bits(name).view(f"i{DTYPES[spec.dtype].width // 8}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
            flat = torch.from_numpy(signed)
        return flat.view(getattr(torch, _TORCH[spec.dtype])).view(spec.shape)


def freeze(model: Any, patterns: tuple[str, ...]) -> None:
    """Freeze the parameters whose names match; SettingError for a pattern that matches none, or if none is left."""
    named = dict(model.named_parameters())
    for pattern in patterns:
        found = [name for name in named if fnmatchcase(name, pattern)]
        if not found:
            shown = ", ".join(sorted(named)[:3])
            raise SettingError(f"freeze {pattern!r}", f"matches no parameter; the model has {shown}, ...")
        for name in found:
            named[name].requires_grad_(requires_grad=False)
    if not any(param.requires_grad for param in named.values()):
        raise SettingError("freeze", "leaves no parameter to train", fix="freeze fewer")


def optimizer(torch: Any, model: Any, base: Base | None, recipe: Recipe) -> Any:
    """The optimiser of a recipe over the model's parameters that are not frozen."""
    trained = {name: param for name, param in model.named_parameters() if param.requires_grad}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            list(trained.values()), lr=recipe.learning_rate, momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )  # fmt: skip
    if recipe.pull == "none":
        return _adamw(torch, trained, recipe)
    if base is None:
        found = f"{recipe.pull} has nothing to pull to: this model begins from nothing"
        raise SettingError("pull", found, fix="leave it out, or train a model from a folder")
    from deltagram.training.optim import AdamR  # noqa: PLC0415 - imports torch

    targets = _initial(trained) if recipe.lora else _in_base(torch, model, base)
    groups: list[dict[str, Any]] = [
        {"params": [(name, param) for name, param in trained.items() if name in targets]},
        {"params": [(name, param) for name, param in trained.items() if name not in targets], "strength": 0.0},
    ]
    if not groups[0]["params"]:
        raise SettingError("pull", "finds no trained parameter in the base", fix="train without a pull")
    return AdamR(
        [group for group in groups if group["params"]], lr=recipe.learning_rate, strength=recipe.strength,
        pull=recipe.pull, reference=targets.__getitem__,
    )  # fmt: skip


def _adamw(torch: Any, trained: Mapping[str, Any], recipe: Recipe) -> Any:
    """AdamW; weights of two axes or more decay, norms and biases do not."""
    decayed = [param for param in trained.values() if param.ndim > 1]
    others = [param for param in trained.values() if param.ndim <= 1]
    if not recipe.weight_decay:
        return torch.optim.AdamW(list(trained.values()), lr=recipe.learning_rate, weight_decay=0.0, fused=True)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _is_head(name: str) -> bool:
    return bool(HEADS & set(name.split(".")))


def _initial(trained: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of adapters as they begin, B = 0: pulled to no delta."""
    return {name: param.detach().clone() for name, param in trained.items() if not _is_head(name)}


def _in_base(torch: Any, model: Any, base: Base) -> dict[str, Any]:
    """Mapped tensors of the base by the names of the parameters that came from them, heads left out."""
    specs = {name: Spec(dtype="F32", shape=tuple(param.shape)) for name, param in model.named_parameters()}
    try:
        pairs = match(base.specs, specs).base_of
    except PlanError:
        return {}
    return {
        name: base.tensor(torch, source)
        for name, source in pairs.items()
        if not _is_head(name) and base.specs[source].floating and base.specs[source].shape == specs[name].shape
    }
