"""Images and a model that puts them into classes: the small network here, one of transformers, timm or torchvision."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deltagram.data.images import Images
from deltagram.data.tables import class_index, class_names
from deltagram.errors import SettingError
from deltagram.geometry import predict
from deltagram.training import backbones, huggingface, imagemodels
from deltagram.training.batches import I64
from deltagram.training.subject import Make, Subject
from deltagram.training.tasks import Classification

CONVNET: Final = "convnet"
FIXED: Final = ("etf", "seli")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images, and what makes a model's input of a batch of them."""

    pixels: NDArray[Any]
    prepare: Callable[[Any], Any]

    @cached_property
    def lengths(self) -> Sequence[int]:
        """All alike."""
        return [1] * len(self.pixels)

    def logits(self, torch: Any, model: Any, samples: I64) -> Any:
        """A model's logits of some images."""
        device = next(model.parameters()).device
        said = model(self.prepare(torch.from_numpy(self.pixels[samples]).to(device)))
        return getattr(said, "logits", said)


@dataclass(frozen=True, kw_only=True)
class _Built:
    """A model, its classes, what makes its input, and how it is written."""

    model: Any
    classes: tuple[str, ...]
    prepare: Callable[[Any], Any]
    save: Callable[[Any, Path], None]


def named(model: str) -> bool:
    """Whether `model` names a network that begins from nothing, not a folder."""
    return model == CONVNET or backbones.named(model)


def pictures(
    model: str, data: Images, *, held_out: Images | None = None, last_relu: bool | None = None,
    fixed_classifier: str | None = None, seed: int = 0,
) -> Make:  # fmt: skip
    """How to make the subject of "convnet", "timm:NAME", "torchvision:NAME" or a folder of transformers.

    `last_relu` (True unless given) and `fixed_classifier`, "etf" or "seli", are of the convnet. What is made raises
    SettingError for images or settings that the model does not take, CheckpointError for a folder that is no image
    classifier, ExtraError for a package that is missing.
    """
    if model != CONVNET and (last_relu is not None or fixed_classifier is not None):
        name = "fixed_classifier" if last_relu is None else "last_relu"
        raise SettingError(name, f"is of {CONVNET}, not of {model}", fix="leave it out")
    if fixed_classifier is not None and fixed_classifier not in FIXED:
        raise SettingError("fixed_classifier", f"{fixed_classifier!r} is unknown", expected=" or ".join(FIXED))
    if len(set(data.label)) < 2:
        raise SettingError(data.source, f"has one class only ({data.label[0]!r})", expected="two classes or more")

    def make(torch: Any, transformers: Any) -> Subject:
        if model == CONVNET:
            built = _convnet(data, last_relu=last_relu is not False, fixed=fixed_classifier, seed=seed)
        elif backbones.named(model):
            built = _backbone(model, data)
        else:
            built = _of_transformers(transformers, Path(model), data)

        def made(images: Images) -> Classification:
            _check_alike(data, images)
            label = class_index(images.label, built.classes, source=images.source)
            return Classification(inputs=Pictures(images.pixels, built.prepare), label=label)

        return Subject(
            model=built.model, task=made(data), held_out=None if held_out is None else made(held_out),
            classes=built.classes, save=built.save, adapters=None, least=_least(torch, built.model),
            told={"images": len(data), "image_shape": list(data.pixels.shape[1:])},
        )  # fmt: skip

    return make


def _least(torch: Any, model: Any) -> int:
    """Examples that the model needs at once in training."""
    batch_norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    return 2 if any(isinstance(module, batch_norms) for module in model.modules()) else 1


def _check_alike(data: Images, images: Images) -> None:
    if images.pixels.shape[1:] != data.pixels.shape[1:]:
        raise SettingError(
            images.source, f"has images of shape {images.pixels.shape[1:]}",
            expected=f"{data.pixels.shape[1:]}, as {data.source} has",
        )  # fmt: skip


def _convnet(data: Images, *, last_relu: bool, fixed: str | None, seed: int) -> _Built:
    from deltagram.training import convnet  # noqa: PLC0415 - imports torch
    from deltagram.training.heads import FixedClassifier  # noqa: PLC0415

    classes = class_names(data.label)
    mean, deviation = moments(data)
    _, channels, rows, columns = data.pixels.shape
    config = convnet.Config(
        classes=classes, channels=channels, rows=rows, columns=columns, mean=mean, deviation=deviation,
        last_relu=last_relu, fixed=fixed is not None,
    )  # fmt: skip
    head = None
    if fixed is not None:
        counts = np.bincount(class_index(data.label, classes, source=data.source))
        geometry = predict.etf(len(classes)) if fixed == "etf" else predict.seli(counts)
        vectors = geometry.classifier_vectors(convnet.FEATURES, seed=seed)
        head = FixedClassifier(vectors, scale=float(1 / np.sqrt((vectors**2).sum(1).mean())))
    return _Built(
        model=convnet.ConvNet(config, classifier=head), classes=classes, prepare=lambda batch: batch,
        save=convnet.save,
    )  # fmt: skip


def moments(data: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, a channel of one value apart, which is divided by 1."""
    flat = [data.pixels[:, channel] for channel in range(data.pixels.shape[1])]
    deviation = [float(part.std(dtype=np.float64)) for part in flat]
    return tuple(float(part.mean(dtype=np.float64)) for part in flat), tuple(size or 1.0 for size in deviation)


def _backbone(model: str, data: Images) -> _Built:
    classes = class_names(data.label)
    mean, deviation = moments(data)
    spec = backbones.Spec(
        name=model, classes=classes, channels=data.pixels.shape[1], mean=mean, deviation=deviation
    )  # fmt: skip
    return _Built(
        model=backbones.build(spec), classes=classes, prepare=spec.prepare,
        save=lambda trained, out: backbones.save(trained, spec, out),
    )  # fmt: skip


def _of_transformers(transformers: Any, folder: Path, data: Images) -> _Built:
    own = huggingface.has_head(transformers, folder, kind="ForImageClassification")
    model = imagemodels.image_classifier(transformers, folder, classes=() if own else class_names(data.label))
    classes = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))

    def save(trained: Any, out: Path) -> None:
        trained.save_pretrained(out)
        imagemodels.copy_preprocessor(folder, out)

    return _Built(
        model=model, classes=classes, prepare=imagemodels.preprocessor(folder, model.config), save=save
    )  # fmt: skip
