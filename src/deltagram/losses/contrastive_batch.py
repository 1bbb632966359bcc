"""What a contrastive loss reads of a batch: rows of unit norm and their classes, or a refusal."""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.losses.counts import vector

HALF: Final = (torch.float16, torch.bfloat16)
WHOLE: Final = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, kw_only=True)
class Items:
    """The counted items: `rows` (item, feature) and `label` (item); `counted` (batch) or (batch, view) says which."""

    rows: Tensor
    label: Tensor
    counted: Tensor


def read_items(
    embeddings: Tensor, labels: Tensor, *, ignore_index: int, normalise: bool, temperature: float,
    classes: int | None, features: int | None,
) -> Items:  # fmt: skip
    """Embeddings (batch, feature) or (batch, view, feature) as rows in float32 or more, those ignored left out.

    Raises SettingError for shapes and dtypes that are not those, for labels outside the classes, and where a row or
    its product with itself over the temperature is not finite.
    """
    _check_shapes(embeddings, labels, features)
    places = embeddings.shape[:-1]
    label = labels.to(embeddings.device, torch.int64)
    label = (label[:, None].expand(places) if len(places) > 1 else label).reshape(-1)
    rows = embeddings.reshape(-1, embeddings.shape[-1])
    rows = rows.float() if rows.dtype in HALF else rows
    counted = label != ignore_index
    if not bool(counted.all()):
        rows, label = rows[counted], label[counted]
    if classes is not None and len(label):
        low, high = (int(end) for end in label.aminmax())
        if low < 0 or high >= classes:
            expected = f"0 to {classes - 1}, or {ignore_index} to ignore an item"
            raise SettingError("labels", f"have {low if low < 0 else high}", expected=expected)
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    longest = norm.detach() if normalise else norm.detach().square() / temperature
    finite = longest.isfinite()
    if not bool(finite.all()):
        first = int(counted.nonzero()[int(finite.int().argmin())])
        raise SettingError("embeddings", f"item {first} is not finite, or too long", expected="finite numbers")
    return Items(rows=_over(rows, norm) if normalise else rows, label=label, counted=counted.view(places))


def unit(rows: Tensor) -> Tensor:
    """Rows divided by their norms; a row of zeros stays, with a gradient of zero."""
    return _over(rows, torch.linalg.vector_norm(rows, dim=1, keepdim=True))


def _over(rows: Tensor, norm: Tensor) -> Tensor:
    least = torch.finfo(rows.dtype).tiny ** 0.5  # below it the square of a norm is no normal number
    return rows * norm.clamp_min(least).reciprocal().masked_fill(norm <= least, 0.0)


def held_prototypes(prototypes: Any) -> Tensor:
    """Prototypes (class, feature) of unit norm: a tensor in its dtype, others in torch's default one.

    A norm may be off by what rounding to the dtype and norms computed in float32 leave. Raises SettingError.
    """
    expected = "(class, feature) of at least 2 classes, each of norm 1"
    try:
        found = prototypes.detach().clone() if isinstance(prototypes, Tensor) else _array(prototypes)
    except (TypeError, ValueError):
        raise SettingError("prototypes", f"are {type(prototypes).__name__}", expected=expected) from None
    if found.dim() != 2 or len(found) < 2 or not found.shape[1]:
        raise SettingError("prototypes", f"have shape {tuple(found.shape)}", expected=expected)
    if not found.is_floating_point():
        found = found.to(torch.get_default_dtype())
    off = (torch.linalg.vector_norm(found.double(), dim=1) - 1).abs()
    bound = torch.finfo(found.dtype).eps + (found.shape[1] ** 0.5 + 2) * torch.finfo(torch.float32).eps
    wrong = ~(off <= bound)
    if bool(wrong.any()):
        first = int(wrong.int().argmax())
        norm = float(torch.linalg.vector_norm(found[first].double()))
        fix = "divide each by its norm"
        raise SettingError("prototypes", f"class {first} has norm {norm:.6g}", expected="norm 1", fix=fix)
    return found


def held_copies(copies: Any, *, classes: int, anchors: bool) -> F64:
    """How many of each prototype, (class), from one number or one a class; with `anchors`, 0 or at least 1.

    Raises SettingError for a negative number, another length, and where all are 0.
    """
    one = isinstance(copies, int | float) or (isinstance(copies, Tensor) and copies.dim() == 0)
    found = vector("copies", [float(copies)] * classes if one else copies, least=0.0, zero=True)
    if len(found) != classes:
        expected = f"one number, or one for each of {classes} prototypes"
        raise SettingError("copies", f"are {len(found)}", expected=expected)
    if not found.any():
        raise SettingError("copies", "are 0 for every class", fix="leave prototypes out")
    if anchors and ((found > 0) & (found < 1)).any():
        first = int(((found > 0) & (found < 1)).argmax())
        fix = "use prototype_anchors=False, which takes any number"
        raise SettingError("copies", f"are {found[first]:g} for class {first}, an anchor", expected="0 or at least 1",
                           fix=fix)  # fmt: skip
    return found


def _array(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.get_default_dtype()).clone()


def _check_shapes(embeddings: Any, labels: Any, features: int | None) -> None:
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        kind = embeddings.dtype if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise SettingError("embeddings", f"are {kind}", expected="a tensor of floating point numbers")
    if embeddings.dim() not in (2, 3) or not embeddings.shape[-1]:
        expected = "(batch, feature) or (batch, view, feature)"
        raise SettingError("embeddings", f"have shape {tuple(embeddings.shape)}", expected=expected)
    if features is not None and embeddings.shape[-1] != features:
        expected = f"{features}, as the prototypes have"
        raise SettingError("embeddings", f"have {embeddings.shape[-1]} features", expected=expected)
    if not isinstance(labels, Tensor) or labels.dtype not in WHOLE:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise SettingError("labels", f"are {kind}", expected="a tensor of integers, one class an item")
    if labels.shape != embeddings.shape[:1]:
        found = f"have shape {tuple(labels.shape)} for embeddings {tuple(embeddings.shape)}"
        raise SettingError("labels", found, expected=f"({len(embeddings)},)")
