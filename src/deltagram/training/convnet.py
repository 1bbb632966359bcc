"""A small convolutional network for small images, kept as config.json and model.safetensors."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from deltagram.errors import CheckpointError, SettingError
from deltagram.training.heads import FixedClassifier

KIND: Final = "convnet"
WIDTHS: Final = (16, 32, 64)
FEATURES: Final = 64
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Class names, the images' channels and size, their mean and deviation a channel, and how the network ends."""

    classes: tuple[str, ...]
    channels: int
    rows: int
    columns: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    last_relu: bool = True
    fixed: bool = False

    def __post_init__(self) -> None:
        least = 2 ** len(WIDTHS)
        if min(self.rows, self.columns) < least:
            found = f"are {self.columns} x {self.rows} pixels"
            raise SettingError("images", found, expected=f"{least} x {least} or more for {KIND}")


class ConvNet(nn.Module):
    """Three blocks of convolution, batch norm, ReLU and pooling; linear, batch norm, ReLU; a head without a bias.

    Takes images (image, channel, row, column) as they were read, uint8 or float, and norms them itself; gives logits
    (image, class). `classifier` takes the place of the head that trains.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: Config, *, classifier: FixedClassifier | None = None) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", _column(config.mean))
        self.register_buffer("deviation", _column(config.deviation))
        blocks: list[nn.Module] = []
        rows, columns, before = config.rows, config.columns, config.channels
        for width in WIDTHS:
            blocks += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            rows, columns, before = rows // 2, columns // 2, width
        ends = [nn.Linear(before * rows * columns, FEATURES), nn.BatchNorm1d(FEATURES)]
        self.body = nn.Sequential(*blocks, nn.Flatten(), *ends, *([nn.ReLU()] if config.last_relu else []))
        self.head: Any = classifier or nn.Linear(FEATURES, len(config.classes), bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (image, class)."""
        found: Tensor = self.head(self.features(images))
        return found

    def features(self, images: Tensor) -> Tensor:
        """What the head sees, (image, feature)."""
        found: Tensor = self.body((images.to(self.mean.dtype) - self.mean) / self.deviation)
        return found


def save(model: ConvNet, folder: Path) -> None:
    """Write the network into a folder."""
    from safetensors.torch import save_file  # noqa: PLC0415 - beside the rest of it

    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"deltagram": KIND, **asdict(model.config)}, indent=1) + "\n", "utf-8")


def load(folder: Path | str) -> ConvNet:
    """The network in a folder, ready to predict. Raises CheckpointError for anything but what `save` wrote."""
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    folder = Path(folder)
    try:
        told = json.loads((folder / CONFIG).read_text("utf-8"))
        if told.pop("deltagram") != KIND:
            raise KeyError(KIND)
        parts: dict[str, Any] = {n: tuple(part) if isinstance(part, list) else part for n, part in told.items()}
        config = Config(**parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(str(folder / CONFIG), f"is not that of a {KIND}", expected="a folder of train") from None
    try:
        state = load_file(folder / WEIGHTS)
        fixed = FixedClassifier(state["head.weight"].numpy()) if config.fixed else None
        made = ConvNet(config, classifier=fixed)
        made.load_state_dict(state)
    except (OSError, KeyError, RuntimeError, SafetensorError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise CheckpointError(str(folder / WEIGHTS), f"does not hold the weights of its {KIND} ({reason})") from None
    return made.eval()


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)
