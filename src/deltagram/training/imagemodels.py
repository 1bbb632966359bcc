"""Image classifiers of transformers, and what their folder says of pixels; torchvision is not needed."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from deltagram.errors import CheckpointError, SettingError
from deltagram.training.huggingface import built, new_head

PREPROCESSOR: Final = "preprocessor_config.json"


def image_classifier(transformers: Any, folder: Path, *, classes: Sequence[str]) -> Any:
    """The model in `folder` in float32, with its own head, or a new one for `classes`."""
    return built(transformers.AutoModelForImageClassification, folder, **new_head(classes))


def preprocessor(folder: Path, config: Any) -> Callable[[Any], Any]:
    """What makes a model's input of a batch of images (image, channel, row, column) of 0 to 255.

    By the folder's `preprocessor_config.json`, as far as it is there: resized to its `size` (bilinear, antialiased; no
    crop), divided by 255, `image_mean` and `image_std`; without it divided by 255 alone. Grey images are repeated where
    the model takes three channels. Raises CheckpointError for a file that says something else.
    """
    told = _told(folder)
    try:
        factor = float(told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 1.0
        normed = bool(told.get("do_normalize", "image_mean" in told))
        mean, deviation = (
            [float(value) for value in told.get(name, ()) if normed] for name in ("image_mean", "image_std")
        )  # fmt: skip
        size = _size(told) if told.get("do_resize", "size" in told) else _of_config(config)
    except (TypeError, ValueError, KeyError) as fault:
        raise CheckpointError(str(folder / PREPROCESSOR), f"does not say how to make input ({fault})") from None
    channels = int(getattr(config, "num_channels", 3))

    def prepare(batch: Any) -> Any:
        import torch  # noqa: PLC0415

        found = batch.float()
        if found.shape[1] != channels:
            if found.shape[1] != 1:
                raise SettingError("images", f"have {found.shape[1]} channels", expected=f"1 or {channels}")
            found = found.expand(-1, channels, -1, -1)
        if size is not None and tuple(found.shape[2:]) != size:
            found = torch.nn.functional.interpolate(found, size=size, mode="bilinear", antialias=True)
        found = found * factor
        if mean and deviation:
            column = [found.new_tensor(values).view(1, -1, 1, 1) for values in (mean, deviation)]
            found = (found - column[0]) / column[1]
        return found

    return prepare


def copy_preprocessor(folder: Path, out: Path) -> None:
    """Copy what the folder says of pixels, if it says anything."""
    if (folder / PREPROCESSOR).is_file():
        shutil.copyfile(folder / PREPROCESSOR, out / PREPROCESSOR)


def _told(folder: Path) -> dict[str, Any]:
    path = folder / PREPROCESSOR
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError):
        raise CheckpointError(str(path), "is no JSON object", fix="copy it from the base") from None


def _size(told: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns: a number, a height and a width, or a shortest edge, which is taken for both."""
    size = told["size"]
    if isinstance(size, int):
        return size, size
    if "shortest_edge" in size:
        return int(size["shortest_edge"]), int(size["shortest_edge"])
    return int(size["height"]), int(size["width"])


def _of_config(config: Any) -> tuple[int, int] | None:
    """The size that a model is made for, if it is for one alone."""
    size = getattr(config, "image_size", None)
    if size is None:
        return None
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
