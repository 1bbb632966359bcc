"""What a delta says of itself, without its base: identity, plan, statistics, bytes against the entropy bound."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.arrays import F64, U64
from deltagram.delta import backend
from deltagram.delta.masks import BLOCK
from deltagram.errors import SettingError
from deltagram.jobs.evidence import Evidence
from deltagram.jobs.layers import finding, layer_changes
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.codecs import ValueReader
from deltagram.store.deltafile import Delta, open_delta
from deltagram.store.masked import Masked, masked
from deltagram.store.masks import ColumnsMask, ListedMask
from deltagram.store.parts import damage
from deltagram.store.tensors import LowRankTensor, PrunedTensor, StoredTensor, WholeTensor


def inspect(
    delta: Path | str,
    *,
    calibration: Path | str | None = None,
    base: Path | str | None = None,
    tuned: Path | str | None = None,
    texts: int | None = None,
    max_length: int = 128,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Record:
    """Identity, forms and bytes of a delta; each tensor's statistics and entropy bound.

    With `calibration` (texts, of which the first `texts` are used), `base` and `tuned`, the tensors of linear layers
    also have `output`: how much pruning moves the layer's output, predicted and measured (`layers.layer_changes`).

    The bound of a tensor is log2 C(entries, kept) bits for listed positions (log2 C(columns, chosen) for chosen
    columns, none for seeded masks and coded whole tensors) plus the order-0 entropy of the byte symbols of its stored
    values: exponents and mantissas, or codes and scales; of other tensors it is what they take.
    Raises FormatError for a delta whose structure is damaged (`verify` checks the rest), SettingError for one of
    the three without the others, and what `layer_changes` raises.
    """
    meter = Meter.start()
    models = _together(calibration, base, tuned)
    evidence = Evidence(calibration=calibration, texts=texts, max_length=max_length)
    opened = open_delta(delta)
    manifest = opened.manifest
    backend.prepare(progress=progress)
    rows: dict[str, dict[str, Any]] = {}
    for done, (name, tensor) in enumerate(manifest.tensors.items(), 1):
        rows[name] = _row(opened, name, tensor) | _statistics(opened, name, tensor)
        progress.advance("reading", done, len(manifest.tensors))
    found: dict[str, Any] = {}
    if models is not None:
        outputs = layer_changes(opened, *models, evidence, device=device, progress=progress)
        rows |= {name: rows[name] | {"output": row} for name, row in outputs.items()}
        found = {"calibration": finding(outputs)}
    dense = sum(tensor.spec.nbytes for tensor in manifest.tensors.values())
    forms: dict[str, int] = {}
    for tensor in manifest.tensors.values():
        forms[tensor.form] = forms.get(tensor.form, 0) + 1
    numbers = {
        **meter.numbers(), "delta_bytes": opened.nbytes, "dense_bytes": dense,
        "ratio": round(dense / opened.nbytes, 2), "digest": opened.digest, "base": manifest.base.name,
        "base_digest": manifest.base.digest, "base_tensors": manifest.base.tensors, "tuned": manifest.tuned.name,
        "created_by": manifest.created_by, "requires": manifest.requires, "forms": forms,
        "bound_bytes": sum(row["bound_bytes"] for row in rows.values()),
        "dropped": sorted(manifest.dropped), "files": {name: f.stored for name, f in manifest.files.items()},
        **found,
    }  # fmt: skip
    given = {"calibration": calibration, "base": base, "tuned": tuned}
    settings = {"delta": str(delta)} | {name: str(path) for name, path in given.items() if path is not None}
    return Record(job="inspect", settings=settings, seed=manifest.seed, numbers=numbers, tensors=rows)


def _together(
    calibration: Path | str | None, base: Path | str | None, tuned: Path | str | None
) -> tuple[Path, Path] | None:
    """Base and fine-tuned model, if texts are given too; None if nothing is given."""
    if calibration is None and base is None and tuned is None:
        return None
    if calibration is None or base is None or tuned is None:
        given = {"--calibration": calibration, "--base": base, "--tuned": tuned}
        missing = [option for option, path in given.items() if path is None]
        raise SettingError(
            "inspect", f"needs {' and '.join(missing)} beside {' and '.join(o for o in given if o not in missing)}",
            fix="give all three to see how pruning moves the outputs of layers, or none",
        )  # fmt: skip
    return Path(base), Path(tuned)


def _row(delta: Delta, name: str, tensor: StoredTensor) -> dict[str, Any]:
    row: dict[str, Any] = {
        "form": tensor.form,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "bytes": delta.stored_bytes(name),
    }
    if tensor.base_name is not None:
        row["base_name"] = tensor.base_name
    if isinstance(tensor, PrunedTensor):
        divisor = delta.divisors[name]
        row |= {
            "mask": tensor.mask.kind,
            "kept": tensor.mask.keep,
            "entries": tensor.common.size,
            "values": tensor.values.model_dump(exclude_none=True),
            "divide_by": _shown(divisor),
        }
        if isinstance(tensor.mask, ListedMask | ColumnsMask):
            row["score"] = tensor.mask.score
        if isinstance(tensor.mask, ColumnsMask):
            row["columns"] = tensor.mask.columns
    elif isinstance(tensor, LowRankTensor):
        a, b = delta.masked[f"{name}:A"], delta.masked[f"{name}:B"]
        row |= {
            "mask": a.mask.kind,
            "rank": tensor.rank,
            "scale": tensor.scale,
            "kept": a.mask.keep + b.mask.keep,
            "entries": a.common.size + b.common.size,
            "values": a.values.model_dump(exclude_none=True),
            "divide_by": {letter: _shown(delta.divisors[f"{name}:{letter}"]) for letter in "AB"},
        }
    elif isinstance(tensor, WholeTensor) and tensor.values is not None:
        row["values"] = tensor.values.model_dump(exclude_none=True)
    return row


def _shown(divisor: F64) -> float | str:
    return float(divisor) if divisor.ndim == 0 else f"{divisor.size} rows"


def _statistics(delta: Delta, name: str, tensor: StoredTensor) -> dict[str, Any]:
    """Moments of the kept values and the least bytes that positions and values can take."""
    if isinstance(tensor, WholeTensor) and tensor.values is not None:
        return _moments(name, delta.coded(name, tensor))
    found = {
        unit: _moments(unit, delta.values(unit), positions=_position_bits(kept))
        for unit, kept in masked(name, tensor).items()
    }
    if not found:
        return {"bound_bytes": delta.stored_bytes(name)}
    extra = tensor.extra.nbytes if isinstance(tensor, PrunedTensor) else 0
    bound = extra + sum(moments.pop("bound_bytes") for moments in found.values())
    return {"bound_bytes": bound, **found.get(name, {"factors": found})}


def _moments(name: str, reader: ValueReader, *, positions: float = 0.0) -> dict[str, Any]:
    total, square, largest = 0.0, 0.0, 0.0
    counts: list[U64] = []
    for index, first in enumerate(range(0, reader.count, BLOCK)):
        with damage(name):
            block = reader.values(first, min(first + BLOCK, reader.count)).astype(np.float64)
            found = [np.bincount(plane, minlength=256).astype(np.uint64) for plane in reader.symbols(index)]
        counts = [a + b for a, b in zip(counts, found, strict=True)] if counts else found
        total, square = total + float(block.sum()), square + float((block**2).sum())
        largest = max(largest, float(np.abs(block).max()))
    count = max(1, reader.count)
    bits = positions + sum(_entropy_bits(plane) for plane in counts)
    return {
        "mean": total / count,
        "rms": math.sqrt(square / count),
        "largest": largest,
        "bound_bytes": math.ceil(bits / 8),
    }


def _position_bits(tensor: Masked) -> float:
    """log2 of the number of masks that keep as many entries, or columns; nothing for what a seed gives."""
    if isinstance(tensor.mask, ListedMask):
        return _choice_bits(tensor.common.size, tensor.mask.keep)
    if isinstance(tensor.mask, ColumnsMask):
        return _choice_bits(tensor.common.shape[1], tensor.mask.columns)
    return 0.0


def _choice_bits(size: int, keep: int) -> float:
    """log2 C(size, keep)."""
    return (math.lgamma(size + 1) - math.lgamma(keep + 1) - math.lgamma(size - keep + 1)) / math.log(2)


def _entropy_bits(counts: U64) -> float:
    """Order-0 entropy of symbols with these counts, in bits for all of them."""
    used = counts[counts > 0].astype(np.float64)
    return float((used * np.log2(used.sum() / used)).sum())
