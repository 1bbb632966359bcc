"""Why dropping fails on a person's model: each linear layer's predicted output change beside the measured one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.arrays import F32, F64, as_floats
from deltagram.data import read_table
from deltagram.delta.difference import difference
from deltagram.delta.output_change import Divided, Layer, Sums, measure
from deltagram.errors import CheckpointError, PlanError, SettingError
from deltagram.jobs.rescale import dare_divisor_of
from deltagram.progress import Progress
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.deltafile import Delta
from deltagram.store.parts import damage
from deltagram.store.rebuild import check_base_digest, check_base_headers
from deltagram.store.tensors import ListedMask, PrunedTensor
from deltagram.training.activations import linear_weights, visit_inputs
from deltagram.training.loaded import Loaded, batches, loaded

MAX_LENGTH = 128
AT_ONCE = 1 << 22  # outputs of a layer in memory
NOTICEABLE = 0.1  # of a layer's output


@dataclass(frozen=True, kw_only=True)
class _Models:
    delta: Delta
    base: Checkpoint
    tuned: Checkpoint


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A pruned linear layer of the delta; `turned` if its weight is `col row`."""

    name: str
    entry: PrunedTensor
    turned: bool

    @property
    def keep(self) -> float | None:
        """The share a random mask keeps; None where entries were chosen."""
        return None if isinstance(self.entry.mask, ListedMask) else dare_divisor_of(self.entry)


def layer_changes(
    delta: Delta, base: Path | str, tuned: Path | str, calibration: Path | str, *, progress: Progress
) -> dict[str, dict[str, Any]]:
    """What pruning does to each linear layer's output on the texts in `calibration`, by the name of its weight.

    The fine-tuned model runs once; each layer's delta and pruned delta are applied to the inputs it gets (DAREx, arXiv
    2410.09344, section 3: layers are taken one by one). Under `dare` and `scales` (the delta's own divisors): rms
    and mean |h| over tokens and outputs, and for random masks the rms that the moments predict and the valid bound.

    Raises SettingError for the texts or a delta with no pruned linear layer, CheckpointError for a model that cannot
    be read or built, BaseError for another base, PlanError for another fine-tuned model.
    """
    models = _open(delta, base, tuned)
    texts = read_table(calibration, labelled=False).text
    with loaded(models.tuned.path, models.tuned.specs) as run:
        layers = _pruned_layers(models, run)
        if not layers:
            raise SettingError(
                "--calibration", f"{delta.path} holds no pruned linear layer of {type(run.model).__name__}",
                expected="a delta with pruned weights", fix="leave --calibration out",
            )  # fmt: skip
        return _rows(models, run, layers, texts, progress=progress)


def _open(delta: Delta, base: Path | str, tuned: Path | str) -> _Models:
    """The models, held against what the delta says of them."""
    models = _Models(delta=delta, base=open_checkpoint(base), tuned=open_checkpoint(tuned))
    if models.tuned.folder is None:
        found = "is a lone file, which does not say how to build its model"
        raise CheckpointError(str(tuned), found, expected="a model folder with config.json and tokenizer")
    check_base_headers(delta, models.base)
    stored = {name: entry.spec for name, entry in delta.manifest.tensors.items()}
    for name in sorted(stored.keys() | models.tuned.specs.keys()):
        spec, expected = models.tuned.specs.get(name), stored.get(name)
        if spec != expected:
            raise PlanError(
                name, f"is {spec or 'missing'} in {tuned}", expected=f"{expected or 'no such tensor'}",
                fix=f"give the model the delta was made from: {delta.manifest.tuned.name}",
            )  # fmt: skip
    return models


def _pruned_layers(models: _Models, run: Loaded) -> dict[str, _Stored]:
    """The pruned linear layers; their payloads and bases are verified."""
    found = {}
    for name, (_, turned) in linear_weights(run).items():
        entry = models.delta.manifest.tensors[name]
        if isinstance(entry, PrunedTensor):
            source = entry.base_name or name
            models.delta.check_payload(name)
            check_base_digest(models.delta, models.base, source, models.base.digest(source), entry.base_digest)
            found[name] = _Stored(name=name, entry=entry, turned=turned)
    return found


def _rows(
    models: _Models, run: Loaded, layers: Mapping[str, _Stored], texts: Sequence[str], *, progress: Progress
) -> dict[str, dict[str, Any]]:
    sums: dict[str, Sums] = {}
    divided: dict[str, dict[str, Divided]] = {}
    batched = batches(run, texts, max_length=MAX_LENGTH)
    total, done = len(batched) * len(layers), 0

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

    visit_inputs(run, batched, visit)
    return {name: _row(models, layers[name], sums[name], divided[name]) for name in layers if name in sums}


def _row(models: _Models, stored: _Stored, sums: Sums, divided: Mapping[str, Divided]) -> dict[str, Any]:
    """What a layer's sums say, as plain data; `divide_by` is None where there is one a row."""
    under = {
        name: {"divide_by": float(q.item()) if q.size == 1 else None} | sums.divided(divided[name], stored.keep)
        for name, q in _divisors(models, stored).items()
    }
    return sums.row(stored.keep) | under


def _matrices(models: _Models, stored: _Stored) -> Layer:
    """A layer's matrices, read for one visit: no more than one layer is in memory."""
    entry, name = stored.entry, stored.name
    size, shape = entry.common.size, entry.common.shape
    bits = models.tuned.bits(name, 0, size)
    base = models.base.bits(entry.base_name or name, 0, size)
    kept = np.zeros(size, np.float32)
    with damage(name):
        positions = models.delta.mask(name).positions(0, entry.mask.keep).astype(np.int64)
        kept[positions] = models.delta.values(name).values(0, entry.mask.keep)
    flat = (
        as_floats(bits, entry.dtype).astype(np.float32),
        difference(base, entry.base_spec.dtype, bits, entry.dtype),
        kept,
    )
    square = [part.reshape(shape).T if stored.turned else part.reshape(shape) for part in flat]
    return Layer(weight=square[0], delta=square[1], kept=square[2], keep=stored.keep)


def _divisors(models: _Models, stored: _Stored) -> dict[str, F64]:
    """DARE's divisor, for random masks, and the delta's own, as `measure` takes them."""
    own = models.delta.divisors[stored.name]
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
