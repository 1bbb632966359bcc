"""What is minimised: a loss by name, made of the settings of a recipe for the classes that are trained on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from deltagram import losses
from deltagram.arrays import F64
from deltagram.errors import SettingError

I64 = NDArray[np.int64]

IGNORED: Final = -100
ACTIVATIONS: Final = ("none", "relu", "softplus")
LOSSES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {  # the class in `deltagram.losses`, and what it is set by
    "ce": ("CrossEntropy", ()),
    "la": ("LogitAdjusted", ("tau",)),
    "cdt": ("CDT", ("gamma",)),
    "ldt": ("LDT", ("gamma",)),
    "vs": ("VS", ("gamma", "tau")),
    "scl": ("SupervisedContrastive", ("temperature", "activation")),
    "scl-prototypes": (
        "SupervisedContrastive", ("temperature", "activation", "design", "copies", "allow_mismatch"),
    ),
}  # fmt: skip
SETTINGS: Final = ("gamma", "tau", "temperature", "activation", "design", "copies", "allow_mismatch")
CONTRASTIVE: Final = ("scl", "scl-prototypes")
BALANCED: Final = "balanced"


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss and its settings; SettingError for one outside its range, or that the loss does not have.

    `gamma`, `tau` and `temperature` are those of `deltagram.losses`, its defaults if None. `class_weight` is "balanced"
    or a weight a class. `class_counts` take the place of those of the training labels. Of contrastive losses,
    `activation` is what the head's inputs go through before they are compared (`of_features` unless given), `design`
    (of `geometry.designnames`) and `copies`, a number or one a class, are the prototypes; with `allow_mismatch` also
    those that features after the activation cannot take the geometry of.
    """

    name: str = "ce"
    gamma: float | None = None
    tau: float | None = None
    temperature: float | None = None
    activation: str | None = None
    design: str | None = None
    copies: tuple[float, ...] | None = None
    allow_mismatch: bool = False
    class_weight: str | tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    class_counts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise SettingError("loss", f"{self.name!r} is unknown", expected=" or ".join(LOSSES))
        has = LOSSES[self.name][1]
        for setting in SETTINGS:
            value = getattr(self, setting)
            if value not in (None, False) and setting not in has:
                those = [name for name, (_, parts) in LOSSES.items() if setting in parts]
                raise SettingError(
                    setting, f"is not a setting of {self.name}", expected=f"a loss of {', '.join(those)}"
                )
            if isinstance(value, float) and not np.isfinite(value):
                raise SettingError(setting, f"is {value}", expected="a finite number")
        if not 0 <= self.label_smoothing < 1:
            raise SettingError("label_smoothing", f"is {self.label_smoothing}", expected="0 to below 1")
        if self.label_smoothing and self.contrastive:
            raise SettingError("label_smoothing", f"is no setting of {self.name}", fix="leave it out")
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise SettingError("activation", f"{self.activation!r} is unknown", expected=" or ".join(ACTIVATIONS))
        self._check_weights()

    def _check_weights(self) -> None:
        given = self.class_weight
        if isinstance(given, str) and given != BALANCED:
            raise SettingError("class_weight", f"{given!r} is unknown", expected=f"{BALANCED}, or a number a class")
        if given is not None and not isinstance(given, str) and not all(0 < value < np.inf for value in given):
            found = f"are {', '.join(f'{value:g}' for value in given)}"
            raise SettingError("class_weight", found, expected="numbers above 0", fix="leave a class out of the data")

    @property
    def contrastive(self) -> bool:
        """Whether it compares embeddings, without a classifier."""
        return self.name in CONTRASTIVE

    @property
    def of_features(self) -> str:
        """The activation before embeddings are compared: a ReLU, none for prototypes other than an orthogonal frame."""
        free = self.name == "scl-prototypes" and self.design not in (None, "of")
        return self.activation or ("none" if free else "relu")

    @property
    def of_classes(self) -> bool:
        """Whether it treats one class unlike another."""
        return self.name != "ce" or self.class_weight is not None or self.class_counts is not None


class Paired(Protocol):
    """Examples of which a model has logits, and their targets."""

    @property
    def lengths(self) -> Sequence[int]:
        """How long each one is."""

    def pair(self, torch: Any, model: Any, samples: I64) -> tuple[Any, Any]:
        """Logits and targets of some of them."""

    def targets(self, samples: I64) -> I64:
        """The targets that count."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """A loss module whose sum over a step's parts is divided once: by the weights of all labels of the step.

    So a step in parts is the step of the whole batch, also where a mean divides by the sum of class weights.
    """

    module: Any
    weights: F64 | None
    seen: Callable[[Any], None] | None = None  # is told the targets of each part

    @classmethod
    def of(cls, module: Any) -> Self:
        """Of a loss of `deltagram.losses`."""
        weights = None if module.weight is None else module.weight.double().cpu().numpy()
        return cls(module=module, weights=weights)

    def weight(self, labels: I64) -> float:
        """What a mean over these labels is divided by."""
        return float(len(labels) if self.weights is None else self.weights[labels].sum())

    def losses(
        self,
        torch: Any,
        accelerator: Any,  # noqa: ARG002 - the interface of an objective
        model: Any,
        task: Paired,
        samples: I64,
        *,
        parts: int,
    ) -> Iterator[Any]:
        """The loss of a step's examples in parts, which add up to the loss of the whole.

        The next part is computed when it is asked for, so that one part's graph is held at a time.
        """
        whole = self.weight(task.targets(samples))
        for part in np.array_split(samples, min(parts, len(samples))):
            logits, target = task.pair(torch, model, part)
            yield self.summed(logits, target) / whole

    def summed(self, logits: Any, target: Any) -> Any:
        """The sum of the losses of logits (sample, class) over the targets that are not `IGNORED`."""
        if self.seen is not None:
            self.seen(target)
        return self.module.summed(logits.float(), target)


def plain() -> Objective:
    """Cross-entropy of any classes."""
    return Objective.of(losses.CrossEntropy())


def objective(loss: Loss, counts: I64 | None) -> Objective:
    """The loss for classes with so many training samples, (class); None where there are no classes, only tokens.

    Raises SettingError for settings of another number of classes, an empty class where the loss divides by its count,
    and a loss of classes without them.
    """
    made: Any = getattr(losses, LOSSES[loss.name][0])
    if counts is None:
        if loss.of_classes:
            found = f"{loss.name} with class weights or counts" if loss.name == "ce" else loss.name
            raise SettingError("loss", f"{found} is of classes, and a language model has none", expected="ce")
        return Objective.of(made(label_smoothing=loss.label_smoothing))
    chosen = _counts(loss, counts)
    settings: dict[str, Any] = {name: getattr(loss, name) for name in LOSSES[loss.name][1]}
    if loss.name != "ce" or loss.class_weight == BALANCED:
        settings["class_counts"] = chosen
        _check_present(chosen, loss)
    if loss.class_weight is not None and loss.class_weight != BALANCED:
        _check_length("class_weight", loss.class_weight, len(counts))
    weight = list(loss.class_weight) if isinstance(loss.class_weight, tuple) else loss.class_weight
    return Objective.of(made(class_weight=weight, label_smoothing=loss.label_smoothing, **settings))


def _counts(loss: Loss, counts: I64) -> I64:
    """Samples a class: told, or those of the training labels."""
    if loss.class_counts is None:
        return counts
    _check_length("class_counts", loss.class_counts, len(counts))
    return np.asarray(loss.class_counts, np.int64)


def _check_length(name: str, given: Any, classes: int) -> None:
    if len(given) != classes:
        raise SettingError(name, f"are {len(given)} numbers", expected=f"{classes}, one a class of the model")


def _check_present(counts: I64, loss: Loss) -> None:
    empty = np.flatnonzero(counts < 1)
    if len(empty):
        what = loss.name if loss.name != "ce" else "balanced weights"
        raise SettingError(
            "class_counts", f"class {empty[0]} has {counts[empty[0]]} samples, by which {what} would divide",
            expected="1 or more", fix="give the model samples of it, or say --class-counts yourself",
        )  # fmt: skip
