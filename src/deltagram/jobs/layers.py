"""Why dropping fails on a person's model: each linear layer's predicted output change beside the measured one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.arrays import F32, F64
from deltagram.delta.difference import difference
from deltagram.delta.output_change import Divided, Layer, Sums, measure
from deltagram.errors import SettingError
from deltagram.jobs.evidence import Evidence, calibration_batches
from deltagram.jobs.variant import Variant, variant
from deltagram.progress import Progress
from deltagram.store.deltafile import Delta
from deltagram.store.masks import ColumnsMask, ListedMask
from deltagram.store.rebuild import check_base_digest
from deltagram.store.tensors import PrunedTensor
from deltagram.training.activations import linear_weights, visit_inputs
from deltagram.training.loaded import Batch

AT_ONCE = 1 << 22  # outputs of a layer in memory
NOTICEABLE = 0.1  # of a layer's output


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A pruned linear layer of the delta; `turned` if its weight is `col row`."""

    name: str
    entry: PrunedTensor
    turned: bool

    @property
    def keep(self) -> float | None:
        """The share a random mask keeps; None where entries, or columns, were chosen."""
        return None if isinstance(self.entry.mask, ListedMask | ColumnsMask) else self.entry.dare_divisor


def layer_changes(
    delta: Delta, base: Path, tuned: Path, evidence: Evidence, *, device: str = "cpu", progress: Progress
) -> dict[str, dict[str, Any]]:
    """What pruning does to each linear layer's output on calibration texts, by the name of its weight.

    The fine-tuned model runs once; each layer's delta and pruned delta are applied to the inputs it gets (DAREx, arXiv
    2410.09344, section 3: layers are taken one by one). Under `dare` and `scales` (the delta's own divisors): rms
    and mean |h| over tokens and outputs, and for random masks the rms that the moments predict and the valid bound.

    Raises SettingError for the texts, another fine-tuned model, or a delta with no pruned linear layer; CheckpointError
    for a model that cannot be read or built, BaseError for another base.
    """
    if not any(isinstance(entry, PrunedTensor) for entry in delta.manifest.tensors.values()):
        raise _no_layer(delta)
    with variant(delta, base, tuned=tuned, device=device) as models:
        layers = _pruned_layers(models)
        if not layers:
            raise _no_layer(delta)
        return _rows(models, layers, calibration_batches(models.run, evidence), progress=progress)


def _no_layer(delta: Delta) -> SettingError:
    return SettingError(
        "--calibration", f"{delta.path} holds no pruned weight of a linear layer", fix="leave --calibration out"
    )


def _pruned_layers(models: Variant) -> dict[str, _Stored]:
    """The pruned linear layers; their bases are verified."""
    found = {}
    for name, (_, turned) in linear_weights(models.run).items():
        entry = models.delta.manifest.tensors[name]
        if isinstance(entry, PrunedTensor):
            source = models.stored[name].base_name
            check_base_digest(models.delta, models.base, source, models.base.digest(source), entry.base_digest)
            found[name] = _Stored(name=name, entry=entry, turned=turned)
    return found


def _rows(
    models: Variant, layers: Mapping[str, _Stored], batches: Sequence[Batch], *, progress: Progress
) -> dict[str, dict[str, Any]]:
    sums: dict[str, Sums] = {}
    divided: dict[str, dict[str, Divided]] = {}
    total, done = len(batches) * len(layers), 0

    def visit(name: str, inputs: Any) -> None:
        nonlocal done
        if name not in layers:
            return
        x: F32 = inputs.cpu().numpy()
        layer, divisors = _matrices(models, layers[name]), _divisors(models, layers[name])
        step = max(1, AT_ONCE // max(1, len(layer.delta)))
        for first in range(0, len(x), step):
            found, changes = measure(layer, x[first : first + step], divisors)
            sums[name] = sums.get(name, Sums()) + found
            before = divided.get(name, {})
            divided[name] = {key: before.get(key, Divided()) + change for key, change in changes.items()}
        done += 1
        progress.advance("layers", min(done, total), total)

    visit_inputs(models.run, batches, visit)
    return {name: _row(models, layers[name], sums[name], divided[name]) for name in layers if name in sums}


def _row(models: Variant, stored: _Stored, sums: Sums, divided: Mapping[str, Divided]) -> dict[str, Any]:
    """What a layer's sums say, as plain data; `divide_by` is None where there is one a row."""
    under = {
        name: {"divide_by": float(q.item()) if q.size == 1 else None} | sums.divided(divided[name], stored.keep)
        for name, q in _divisors(models, stored).items()
    }
    return sums.row(stored.keep) | under


def _matrices(models: Variant, stored: _Stored) -> Layer:
    """A layer's matrices, made for one visit: no more than one layer is in memory."""
    tensor, shape = models.pruned[stored.name], stored.entry.common.shape
    size = tensor.mask.size
    weight: F32 = models.run.parameters[stored.name].detach().cpu().numpy().reshape(-1)[:size]
    base = models.base.bits(tensor.base_name, 0, size)
    kept = np.zeros(size, np.float32)
    kept[tensor.mask.positions(0, tensor.mask.keep).astype(np.int64)] = tensor.values
    flat = (weight, difference(base, tensor.base.dtype, weight.view(np.uint32), "F32"), kept)
    square = [part.reshape(shape).T if stored.turned else part.reshape(shape) for part in flat]
    return Layer(weight=square[0], delta=square[1], kept=square[2], keep=stored.keep)


def _divisors(models: Variant, stored: _Stored) -> dict[str, F64]:
    """DARE's divisor, for random masks, and the delta's own, as `measure` takes them."""
    own = models.pruned[stored.name].divide_by
    own = own.reshape((1, -1) if stored.turned else (-1, 1))
    return {"scales": own} if stored.keep is None else {"dare": np.full((1, 1), stored.keep), "scales": own}


def finding(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Which layers the two reasons of DAREx (section 3) hit, the worst first.

    `rescaling`: under DARE's divisor a random mask changes the output by more than leaving the delta out would.
    `terms`: mean and variance of c_ij are so large that at the best single divisor, too, the change is more than a
    tenth of the layer's output.
    """
    random = {name: row for name, row in rows.items() if "dare" in row}
    return {
        "layers": len(random),
        "rescaling": _above({n: _ratio(r["dare"]["predicted_rms"], r["rms_signal"]) for n, r in random.items()}, 1.0),
        "terms": _above({n: _ratio(r["best_rms"], r["rms_output"]) for n, r in random.items()}, NOTICEABLE),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _above(ratios: Mapping[str, float], least: float) -> dict[str, float]:
    hit = {name: round(ratio, 4) for name, ratio in ratios.items() if ratio > least}
    return dict(sorted(hit.items(), key=lambda item: -item[1]))
