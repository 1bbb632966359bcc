"""Which base tensor each tensor of a PEFT adapter belongs to; every one of them is accounted for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deltagram.arrays import Spec
from deltagram.delta.names import Matching
from deltagram.errors import CheckpointError, PlanError, SettingError

PREFIX: Final = "base_model.model."
_ENDS: Final = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_B.bias": "bias",
    ".lora_embedding_A": "a",
    ".lora_embedding_B": "b",
}
_FROZEN: Final = ".base_layer.weight"


_COPIES: Final = (".modules_to_save.", ".original_module.")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The adapter's tensors of one module."""

    module: str
    a: str
    b: str
    has_bias: bool

    @property
    def embedding(self) -> bool:
        """Whether the module looks rows up."""
        return self.a.endswith(".lora_embedding_A")

    @property
    def weight(self) -> str:
        """The tensor the factors add to."""
        return f"{self.module}.weight"

    @property
    def bias(self) -> str:
        """The tensor that `lora_bias` adds to."""
        return f"{self.module}.bias"


def sort_names(path: Path, specs: Mapping[str, Spec]) -> tuple[list[Lora], dict[str, str], dict[str, str]]:
    """Modules with factors; tuned name to adapter name of whole tensors; and of weights saved beside their factors.

    Raises CheckpointError for a tensor whose meaning is not known.
    """
    parts: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for key in sorted(specs):
        if not key.startswith(PREFIX):
            raise CheckpointError(str(path), f"holds {key}", expected=f"names that begin with {PREFIX}")
        end = next((end for end in _ENDS if key.endswith(end)), None)
        if end is not None:
            parts.setdefault(key.removeprefix(PREFIX).removesuffix(end), {})[_ENDS[end]] = key
        elif any(part in key for part in _COPIES) and _plain(key) in specs:
            continue  # with bias="all" PEFT saves a replaced module's biases thrice; this one is never loaded
        elif any(part in key for part in (".lora_", ".token_adapter.", *_COPIES)):
            fix = "merge it with PeftModel.merge_and_unload(), save that, and give it instead"
            raise CheckpointError(str(path), f"holds {key}, which is not part of plain LoRA", fix=fix)
        else:
            whole[key.removeprefix(PREFIX).replace(".base_layer.", ".")] = key
    loras = [_lora(path, module, found) for module, found in parts.items()]
    if not loras and not whole:
        raise CheckpointError(str(path), "holds no tensor", expected="the factors of a LoRA adapter")
    weights = {lora.weight for lora in loras}
    frozen = {name: key for name, key in whole.items() if name in weights and key.endswith(_FROZEN)}
    odd = sorted(weights & set(whole) - set(frozen))
    if odd:
        raise CheckpointError(str(path), f"holds {whole[odd[0]]} and factors that add to it", fix="save it again")
    return loras, {name: key for name, key in whole.items() if name not in frozen}, frozen


def _plain(key: str) -> str:
    for part in _COPIES:
        key = key.replace(part, ".")
    return key


def _lora(path: Path, module: str, found: Mapping[str, str]) -> Lora:
    for part in ("a", "b"):
        if part not in found:
            other = next(iter(found.values()))
            raise CheckpointError(str(path), f"holds {other}, but not its other factor", fix="save the adapter again")
    return Lora(module=module, a=found["a"], b=found["b"], has_bias="bias" in found)


def tuned_names(
    touched: Sequence[str],
    whole: Mapping[str, str],
    base: Mapping[str, Spec],
    *,
    rename: Sequence[tuple[str, str]],
    of: str,
    base_at: Path,
) -> Matching:
    """Tuned name to base name of every base tensor: as the adapter calls it, where it names one.

    The adapter's model may add a prefix to the base's names (`bert.`) or drop one. Raises PlanError for a touched
    tensor that the base does not have.
    """
    if rename:
        how = "renamed " + ", ".join(f"{old or '(none)'}={new}" for old, new in rename)
        found = _renamed(base, rename)
    else:
        found, how = _best(touched, whole, base)
    missing = [name for name in touched if name not in found]
    if missing:
        raise PlanError(
            missing[0], f"the adapter adds to it, but the base {base_at} has no such tensor",
            expected=f"names such as {', '.join(sorted(base)[:2])}",
            fix=f"give the adapter's own base ({of}), or pair the names with --rename OLD=NEW",
        )  # fmt: skip
    return Matching(base_of=found, how=how)


def _best(touched: Sequence[str], whole: Mapping[str, str], base: Mapping[str, Spec]) -> tuple[dict[str, str], str]:
    """The naming under which most tensors of the adapter are found: as they are, with a prefix, without one."""
    named = [*touched, *whole]
    namings = [({name: name for name in base}, "names are equal")]
    namings += [
        ({prefix + name: name for name in base}, f"the adapter's model adds the prefix {prefix!r}")
        for prefix in _prefixes(named)
    ]
    namings += [
        ({name.removeprefix(prefix): name for name in base}, f"the adapter's model drops the prefix {prefix!r}")
        for prefix in _prefixes(base)
    ]
    complete = [(naming, how) for naming, how in namings if len(naming) == len(base)]
    return max(complete, key=lambda one: (sum(n in one[0] for n in touched), sum(n in one[0] for n in named)))


def _prefixes(names: Sequence[str] | Mapping[str, Spec]) -> list[str]:
    found = {".".join(parts[:depth]) + "." for parts in (name.split(".") for name in names) for depth in (1, 2, 3)
             if depth < len(parts)}  # fmt: skip
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _renamed(base: Mapping[str, Spec], rename: Sequence[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in base:
        old, new = next(((old, new) for old, new in rename if name.startswith(old)), ("", ""))
        tuned = new + name[len(old) :]
        if tuned in found:
            raise SettingError("--rename", f"{found[tuned]} and {name} would both be {tuned}")
        found[tuned] = name
    return found
