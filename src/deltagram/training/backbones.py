"""Networks of timm and torchvision by name, without weights of theirs, kept in safetensors with how to build them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from deltagram.errors import CheckpointError, ExtraError, SettingError

LIBRARIES: Final = ("timm", "torchvision")
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """`name` is LIBRARY:NAME; class names, channels of the images, and their mean and deviation a channel."""

    name: str
    classes: tuple[str, ...]
    channels: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def takes(self) -> int:
        """Channels of the network: torchvision's have three, so that grey images are repeated."""
        return 3 if self.name.startswith("torchvision:") else self.channels

    def prepare(self, batch: Any) -> Any:
        """A batch of images as the network takes them."""
        normed = (batch.float() - _column(batch, self.mean)) / _column(batch, self.deviation)
        return normed if self.takes == self.channels else normed.expand(-1, self.takes, -1, -1)


def named(model: str) -> bool:
    """Whether `model` is LIBRARY:NAME of one of the libraries."""
    return model.partition(":")[0] in LIBRARIES and ":" in model


def build(spec: Spec) -> Any:
    """The network with weights drawn anew. Raises ExtraError without its library, SettingError for an unknown name."""
    library, _, name = spec.name.partition(":")
    if spec.channels not in (1, spec.takes):
        raise SettingError("images", f"have {spec.channels} channels", expected=f"1 or {spec.takes} for {spec.name}")
    try:
        if library == "timm":
            import timm  # noqa: PLC0415 - an extra

            return timm.create_model(name, pretrained=False, num_classes=len(spec.classes), in_chans=spec.takes)
        from torchvision import models  # noqa: PLC0415 - an extra

        return models.get_model(name, weights=None, num_classes=len(spec.classes))
    except ModuleNotFoundError as fault:
        found = f"package {fault.name} is not installed"
        raise ExtraError(spec.name, found, fix=f"pip install {library}") from None
    except (ValueError, RuntimeError, TypeError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise SettingError(
            "model", f"{spec.name} cannot be built ({reason})", expected=f"a name of {library}"
        ) from None


def save(model: Any, spec: Spec, folder: Path) -> None:
    """Write state and `spec` into a folder."""
    from safetensors.torch import save_file  # noqa: PLC0415 - imports torch

    state = {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"deltagram": "backbone", **asdict(spec)}, indent=1) + "\n", "utf-8")


def load(folder: Path | str) -> tuple[Any, Spec]:
    """The network in a folder, ready to predict what `spec.prepare` gives. Raises CheckpointError, and as `build`."""
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415 - imports torch

    folder = Path(folder)
    try:
        told = json.loads((folder / CONFIG).read_text("utf-8"))
        if told.pop("deltagram") != "backbone":
            raise KeyError("backbone")
        parts: dict[str, Any] = {n: tuple(part) if isinstance(part, list) else part for n, part in told.items()}
        spec = Spec(**parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        where, found = str(folder / CONFIG), "is not that of a network of timm or torchvision"
        raise CheckpointError(where, found, expected="a folder of train") from None
    made = build(spec)
    try:
        made.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, KeyError, RuntimeError, SafetensorError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise CheckpointError(str(folder / WEIGHTS), f"does not hold the weights of {spec.name} ({reason})") from None
    return made.eval(), spec


def _column(batch: Any, values: Sequence[float]) -> Any:
    """One number a channel, as it broadcasts over a batch."""
    return batch.new_tensor(values, dtype=batch.float().dtype).view(1, -1, 1, 1)
