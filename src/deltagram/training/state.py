"""A training in the middle, in files: trained weights, optimiser, random state; no pickle."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deltagram.errors import SettingError

WEIGHTS: Final = "model.safetensors"
OPTIMIZER: Final = "optimizer.safetensors"
NOTE: Final = "training.json"


def save(
    torch: Any, folder: Path, model: Any, optimizer: Any, accelerator: Any, *,
    losses: Sequence[float], made_from: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write all that decides the coming steps into `folder`; `made_from` is what the training was started with."""
    from safetensors.torch import save_file  # noqa: PLC0415 - imports torch

    weights = {name: value.detach().contiguous() for name, value in _changing(model).items()}
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value.contiguous() for index, row in state["state"].items() for name, value in row.items()
    }
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    clamped = [group.get("clamped", 0) for group in state["param_groups"]]
    scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
    save_file(weights, folder / WEIGHTS)
    save_file(tensors, folder / OPTIMIZER)
    note = {"made_from": dict(made_from), "losses": list(losses), "clamped": clamped, "scaler": scaler}
    (folder / NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def load(
    torch: Any, folder: Path, model: Any, optimizer: Any, accelerator: Any, *, made_from: Mapping[str, Any]
) -> list[float]:
    """Put a model, optimiser and random state into the state in `folder`; returns the losses of the steps before.

    Raises SettingError for a folder without a state, or one of a training that was started differently.
    """
    from safetensors.torch import load_file  # noqa: PLC0415 - imports torch

    note = _note(folder, made_from)
    device = str(next(model.parameters()).device)
    weights = load_file(folder / WEIGHTS, device=device)
    with torch.no_grad():
        for name, value in _changing(model).items():
            value.copy_(weights[name])
    tensors = load_file(folder / OPTIMIZER)
    random = {name: tensors.pop(name) for name in [name for name in tensors if name.startswith("random.")]}
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, field = name.partition(".")
        state.setdefault(int(index), {})[field] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, clamped in zip(groups, note["clamped"], strict=True):
        if "clamped" in group:
            group["clamped"] = clamped
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    if accelerator.scaler is not None and note["scaler"]:
        accelerator.scaler.load_state_dict(note["scaler"])
    torch.set_rng_state(random["random.cpu"])
    if "random.cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["random.cuda"])
    return [float(loss) for loss in note["losses"]]


def _changing(model: Any) -> dict[str, Any]:
    """What a step may change: the trained parameters, and buffers that are kept, such as the means of a batch norm."""
    kept = model.state_dict().keys()
    trained = {name: param for name, param in model.named_parameters() if param.requires_grad}
    return trained | {name: buffer for name, buffer in model.named_buffers() if name in kept}


def _note(folder: Path, made_from: Mapping[str, Any]) -> dict[str, Any]:
    """The note of a saved state, if it is one of this training."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        found = dict(note["made_from"])
    except FileNotFoundError:
        raise SettingError(str(folder), "holds no saved training", fix="leave out --resume to start one") from None
    except (ValueError, KeyError, TypeError):
        raise SettingError(str(folder), "is damaged", fix="start again with --force") from None
    wanted, found = _flat(json.loads(json.dumps(dict(made_from)))), _flat(found)
    for name in sorted({*wanted, *found}):
        if found.get(name) != wanted.get(name):
            raise SettingError(
                str(folder), f"was saved with {name} {found.get(name)!r}", expected=f"{wanted.get(name)!r}",
                fix="resume with the same settings and data, or start again with --force",
            )  # fmt: skip
    return dict(note)


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
