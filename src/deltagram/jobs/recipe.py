"""What to merge and how, as data: from arguments here, from a mergekit file in `mergekit_yaml`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final, Literal, cast

from deltagram.delta.graded import Graded
from deltagram.delta.merge import CONSENSUS, METHODS, Consensus, Way
from deltagram.errors import SettingError
from deltagram.store.blend import Mix, Rescaling

DTYPES: Final[Mapping[str, str]] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
DARE: Final = ("ours", "mergekit")
ONE: Final = Graded.constant(1.0)
_ZERO: Final = 1e-8  # a sum of weights that nothing is divided by


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model: a delta directory or a checkpoint, with its weight and density."""

    path: Path
    weight: Graded
    density: Graded

    def describe(self) -> dict[str, Any]:
        """As plain data."""
        return {"model": str(self.path), "weight": self.weight.describe(), "density": self.density.describe()}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A merge. Unset `normalize`, `rescale` are the method's; `scale` is lambda; `dtype` a safetensors name.

    `form`: whose names, configuration and tokenizer the merged model has, the base's or the first model's.
    `notes` are sentences for people about what a file said.
    """

    method: str
    base: Path | None
    members: tuple[Member, ...]
    normalize: Graded | None = None
    rescale: Graded | None = None
    scale: Graded = ONE
    consensus: Consensus = "sum"
    dtype: str | None = None
    wide: bool = False
    form: Literal["base", "first"] = "first"
    source: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def way(self) -> Way:
        """What the method does."""
        return METHODS[self.method]

    @property
    def inputs(self) -> list[Path]:
        """Every path that is read."""
        named = [self.base, self.source, *(member.path for member in self.members)]
        return [path for path in named if path is not None]

    def mix(self, name: str, depth: float, *, seed: int, dare: str) -> Mix:
        """The numbers for one tensor. Raises SettingError for a model without a weight, or weights that cancel."""
        weights = tuple(_given(member.weight.at(name, depth), member, name, "weight") for member in self.members)
        densities = tuple(_given(member.density.at(name, depth), member, name, "density") for member in self.members)
        normalize = _switch(self.normalize, name, depth, default=self.way.normalize)
        if normalize and not self.way.elect and abs(sum(weights)) < _ZERO:
            found = f"{name}: the weights {', '.join(f'{weight:g}' for weight in weights)} add up to nothing"
            raise SettingError("weights", found, fix="give other weights, or do not normalize")
        rescaling: Rescaling = "none"
        if _switch(self.rescale, name, depth, default=self.way.rescale):
            rescaling = "dare" if self.way.trim == "random" and dare == "ours" else "l1"
        return Mix(
            way=self.way, weights=weights, densities=densities, normalize=normalize, rescaling=rescaling,
            scale=_given(self.scale.at(name, depth), None, name, "lambda"), consensus=self.consensus, seed=seed,
            wide=self.wide,
        )  # fmt: skip

    def layered(self) -> bool:
        """Whether any number follows the layers."""
        shared = [found for found in (self.normalize, self.rescale, self.scale) if found is not None]
        return any(found.layered for member in self.members for found in (member.weight, member.density)) or any(
            found.layered for found in shared
        )


def _given(value: float | None, member: Member | None, name: str, what: str) -> float:
    if value is None:
        where = what if member is None else str(member.path)
        raise SettingError(where, f"there is no {what} for {name}", fix="add a value without a filter")
    return value


def _switch(setting: Graded | None, name: str, depth: float, *, default: bool) -> bool:
    value = None if setting is None else setting.at(name, depth)
    return default if value is None else bool(value)


def recipe(
    base: Path | str,
    models: Sequence[Path | str],
    *,
    method: str = "linear",
    weights: Sequence[float] | None = None,
    densities: Sequence[float] | None = None,
    normalize: bool | None = None,
    scale: float = 1.0,
    consensus: str = "sum",
    dtype: str | None = None,
) -> Recipe:
    """Merge `models` (delta directories or fine-tuned checkpoints) of `base`.

    One weight (default 1) and density (default 1) a model; one density serves all. `scale` is lambda.
    Raises SettingError for an unknown method or a number outside its range.
    """
    way = method_named(method, where="--method")
    if not models:
        raise SettingError("models", "there is none to merge", expected="one or more")
    weighted = _one_each(weights, len(models), where="--weights")
    if densities is not None and len(densities) == 1:
        densities = [*densities] * len(models)
    dense = _one_each(densities, len(models), where="--density")
    check_weight(scale, where="--lambda")
    for weight, density in zip(weighted, dense, strict=True):
        check_weight(weight, where="--weights")
        check_density(density, method, where="--density")
    if consensus not in CONSENSUS:
        raise SettingError("--consensus", f"{consensus!r} is unknown", expected=" or ".join(CONSENSUS))
    if consensus != "sum" and not way.elect:
        raise SettingError("--consensus", f"method {method} elects no signs", fix="leave it out, or use a TIES method")
    if scale != 1 and not way.vectors:
        raise SettingError("--lambda", f"method {method} has no task vectors to scale", fix="use task_arithmetic")
    members = tuple(
        Member(path=Path(model), weight=Graded.constant(weight), density=Graded.constant(density))
        for model, weight, density in zip(models, weighted, dense, strict=True)
    )
    return Recipe(
        method=method, base=Path(base), members=members, scale=Graded.constant(scale),
        normalize=None if normalize is None else Graded.constant(float(normalize)),
        consensus=cast("Consensus", consensus), dtype=dtype_named(dtype, where="--dtype"), wide=dtype == "float64",
    )  # fmt: skip


def _one_each(numbers: Sequence[float] | None, count: int, *, where: str) -> list[float]:
    """One number a model, 1 where none is given."""
    given = [1.0] * count if numbers is None else list(numbers)
    if len(given) != count:
        raise SettingError(where, f"there are {len(given)} for {count} models", expected="one a model, in order")
    return given


def method_named(name: str, *, where: str) -> Way:
    """The method of that name. Raises SettingError for an unknown one."""
    if name not in METHODS:
        raise SettingError(where, f"{name!r} is unknown", expected=" or ".join(METHODS))
    return METHODS[name]


def dtype_named(name: str | None, *, where: str) -> str | None:
    """The safetensors name of a torch dtype's name. Raises SettingError for one that models are not merged in."""
    if name is None:
        return None
    if name.removeprefix("torch.") not in DTYPES:
        raise SettingError(where, f"{name!r} is unknown", expected=" or ".join(DTYPES))
    return DTYPES[name.removeprefix("torch.")]


def check_weight(value: float, *, where: str) -> None:
    """Raise SettingError unless a weight is finite."""
    if not isfinite(value):
        raise SettingError(where, f"{value} is not a weight", expected="finite numbers")


def check_density(value: float, method: str, *, where: str) -> None:
    """Raise SettingError unless a density lies in (0, 1], and is 1 for a method that drops nothing."""
    if not 0 < value <= 1:
        raise SettingError(where, f"{value} is outside (0, 1]", fix="give the share of a task vector to keep")
    if value != 1 and METHODS[method].trim == "none":
        raise SettingError(
            where,
            f"method {method} drops nothing, so it has no density",
            fix="leave it out, or use ties or dare_linear",
        )
