"""Cross-entropy of scaled and shifted logits: the arithmetic that CE, LA, CDT, LDT and VS share."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.losses.counts import ClassWeight, chosen_weights
from deltagram.losses.trainer import TrainerLoss

REDUCTIONS: Final = ("none", "mean", "sum")
_HALF: Final = (torch.float16, torch.bfloat16)


class ParameterisedCrossEntropy(torch.nn.Module):
    """`weight_y CE(u, y)` with logits `u_c = label_scale_y class_scale_c z_c + offset_c`; what is None is neutral.

    Called as `torch.nn.CrossEntropyLoss` is: `loss(input, target)`, logits (class), (sample, class) or
    (sample, class, d1, ...), target indices or probabilities; the same reductions, `weight` (a mean divides by
    the sum of weights), `ignore_index`, `label_smoothing`. What is smoothed or soft is an expectation over labels:

        loss(z, p) = sum_y p_y weight_y CE(u(z, y), y),    smoothing: p = (1 - s) onehot(y) + s / k

    Without `label_scale` u does not depend on y, and this is what torch computes. With it each distinct scale
    costs one cross-entropy. Half-precision logits are computed in float32. Parameters are buffers in torch's
    default dtype. Raises SettingError for labels outside the range and another number of classes.
    """

    class_scale: Tensor | None
    label_scale: Tensor | None
    offset: Tensor | None
    weight: Tensor | None

    def __init__(
        self,
        *,
        class_scale: F64 | None = None,
        label_scale: F64 | None = None,
        offset: F64 | None = None,
        counts: F64 | None = None,
        weight: Any = None,
        class_weight: ClassWeight = None,
        empty: str = "refuse",
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise SettingError("reduction", f"{reduction!r} is unknown", expected=" or ".join(REDUCTIONS))
        if not 0 <= label_smoothing <= 1:
            raise SettingError("label_smoothing", f"is {label_smoothing}", expected="a share from 0 to 1")
        parts = {"class_scale": class_scale, "label_scale": label_scale, "offset": offset}
        classes = _classes({**parts, "class_counts": counts})
        parts["weight"] = chosen_weights(weight, class_weight, counts=counts, classes=classes, empty=empty)
        self.classes = _classes({**parts, "class_counts": counts})
        for name, values in parts.items():
            self.register_buffer(name, None if values is None else _held(name, values))
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits `input`, reduced as `reduction` says."""
        return self._reduced(input, target, self.reduction)

    def summed(self, input: Tensor, target: Tensor) -> Tensor:
        """The sum of the losses, whatever `reduction` says."""
        return self._reduced(input, target, "sum")

    def for_trainer(self, *, shift: bool = False) -> Callable[..., Tensor]:
        """This loss as `compute_loss_func=` of transformers' Trainer; see `TrainerLoss`."""
        return TrainerLoss(loss=self, shift=shift)

    def extra_repr(self) -> str:
        """What `print` shows beside the name."""
        parts = [name for name, _ in self.named_buffers()]
        return f"{self.classes or 'any number of'} classes, {' '.join([*parts, ''])}reduction={self.reduction!r}"

    def _reduced(self, input: Tensor, target: Tensor, reduction: str) -> Tensor:
        if not input.dim():
            raise SettingError("loss", "logits are one number", expected="(class), (sample, class) or more axes")
        shape, axis = input.shape, min(1, input.dim() - 1)
        if self.classes is not None and shape[axis] != self.classes:
            found = f"logits {tuple(shape)} of {shape[axis]} classes"
            raise SettingError("loss", found, expected=f"{self.classes}, as the loss was made for")
        wide = input.float() if input.dtype in _HALF else input
        if soft := shape == target.shape:
            target = _probabilities(target)
        elif axis and target.shape != shape[:1] + shape[2:]:
            found, expected = (
                f"has shape {tuple(target.shape)}",
                f"{tuple(shape[:1] + shape[2:])}, or that of the logits",
            )
            raise SettingError("target", found, expected=expected)
        try:
            if (by_label := self._buffers["label_scale"]) is None:
                return self._cross_entropy(self._logits(wide, None), target, reduction, self.label_smoothing)
            if soft or self.label_smoothing:
                return self._expected(wide, target, reduction, soft=soft)
            scale = _cast(by_label, wide).take(target.long().clamp(0, shape[axis] - 1)).unsqueeze(axis)
            return self._cross_entropy(self._logits(wide, scale), target, reduction)
        except IndexError:
            raise self._outside(target, shape[axis]) from None

    def _logits(self, input: Tensor, scale: Tensor | None) -> Tensor:
        """u, given the scale of each row's label, of a shape that broadcasts."""
        by, offset = self._along("class_scale", input), self._along("offset", input)
        if scale is not None:
            by = scale if by is None else scale * by
        if offset is None:
            return input if by is None else input * by
        return input + offset if by is None else torch.addcmul(offset, input, by)

    def _along(self, name: str, input: Tensor) -> Tensor | None:
        """A buffer of one number a class, of the dtype of `input`, along its class axis."""
        if (values := self._buffers[name]) is None:  # the dict spares torch's search for an attribute: 1 us
            return None
        cast = _cast(values, input)
        return cast if input.dim() < 3 else cast.view(-1, *(1,) * (input.dim() - 2))

    def _cross_entropy(self, logits: Tensor, target: Tensor, reduction: str, smoothing: float = 0.0) -> Tensor:
        return cross_entropy(
            logits, target, weight=self._weight(logits), ignore_index=self.ignore_index, reduction=reduction,
            label_smoothing=smoothing,
        )  # fmt: skip

    def _weight(self, logits: Tensor) -> Tensor | None:
        return None if (weight := self._buffers["weight"]) is None else _cast(weight, logits)

    def _expected(self, input: Tensor, target: Tensor, reduction: str, *, soft: bool) -> Tensor:
        """The expectation over labels, one cross-entropy a distinct scale that has a share of them."""
        if soft and self.ignore_index >= 0:
            found = f"is {self.ignore_index}, and targets are probabilities"
            raise SettingError("ignore_index", found, expected="a negative number")
        axis = min(1, input.dim() - 1)
        share = target.to(input.dtype) if soft else self._one_hot(input, target)
        counted = 1.0 if soft else share.sum(axis, keepdim=True)
        share = (1 - self.label_smoothing) * share + self.label_smoothing / input.shape[axis] * counted
        scales = self._along("label_scale", input)
        losses = input.new_zeros(share.select(axis, 0).shape)
        for scale in torch.unique(scales):
            part = share * (scales == scale)
            if part.any():
                logits, weight = self._logits(input, scale), self._weight(input)
                losses = losses + cross_entropy(logits, part, weight=weight, reduction="none")
        if reduction == "none":
            return losses
        return losses.sum() if reduction == "sum" else losses.sum() / self._divisor(losses, target, soft=soft)

    def _one_hot(self, input: Tensor, target: Tensor) -> Tensor:
        """1 at each label, in the shape of `input`; nothing where a label is ignored."""
        axis = min(1, input.dim() - 1)
        label = torch.where(target == self.ignore_index, 0, target.long()).unsqueeze(axis)
        if label.numel() and bool(((label < 0) | (label >= input.shape[axis])).any()):
            raise IndexError
        counted = (target != self.ignore_index).to(input.dtype).unsqueeze(axis)
        return torch.zeros_like(input, requires_grad=False).scatter(axis, label, counted)

    def _divisor(self, losses: Tensor, target: Tensor, *, soft: bool) -> Tensor | int:
        """What torch divides a mean by: the weights of the labels, or, for probabilities, the number of rows."""
        if soft:
            return losses.numel()
        label = target[target != self.ignore_index]
        return label.numel() if self.weight is None else self.weight.to(losses.dtype)[label].sum()

    def _outside(self, target: Tensor, classes: int) -> SettingError:
        """The error for a label that is no class."""
        wrong = target[(target != self.ignore_index) & ((target < 0) | (target >= classes))]
        expected = f"0 to {classes - 1}, or {self.ignore_index} to ignore a sample"
        return SettingError("target", f"has label {wrong.flatten()[0].item()}", expected=expected)


def _held(name: str, values: F64) -> Tensor:
    """`values` in torch's default dtype. Raises SettingError where it cannot hold one, or holds it as 0."""
    made = torch.tensor(values, dtype=torch.get_default_dtype())
    lost = ~made.isfinite() | ((made == 0) & (torch.tensor(values) != 0))
    if bool(lost.any()):
        first = int(lost.int().argmax())
        raise SettingError(name, f"is {values[first]:g} for class {first}", expected=f"what {made.dtype} can hold")
    return made


def _cast(values: Tensor, input: Tensor) -> Tensor:
    return values if values.dtype == input.dtype else values.to(input.dtype)


def _probabilities(target: Tensor) -> Tensor:
    """Soft targets in float32 or more. Raises SettingError for whole numbers, which are no probabilities."""
    if not target.is_floating_point():
        found = f"is {target.dtype} of the shape of the logits"
        raise SettingError("target", found, expected="probabilities, or one label a sample")
    return target.float() if target.dtype in _HALF else target


def _classes(parts: dict[str, F64 | None]) -> int | None:
    """The number of classes that all which is given agrees on. Raises SettingError."""
    sizes = {name: len(values) for name, values in parts.items() if values is not None}
    if len(set(sizes.values())) > 1:
        found = " and ".join(f"{name} has {size}" for name, size in sizes.items())
        raise SettingError("loss", f"{found} classes", expected="one number of classes")
    return next(iter(sizes.values()), None)
