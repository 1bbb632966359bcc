"""Another divisor for a pruned delta, without either model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.jobs.evidence import Evidence
from deltagram.jobs.planning import divisor_number
from deltagram.jobs.search import RULES, check_rule, narrowest, search
from deltagram.jobs.variant import variant
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store import scales
from deltagram.store.deltafile import Delta, open_delta
from deltagram.store.masked import Masked
from deltagram.store.staging import staged_file

Divisors = Mapping[str, float | F64]


def rescale(
    delta: Path | str,
    *,
    divide_by: float | str | Divisors,
    base: Path | str | None = None,
    tuned: Path | str | None = None,
    calibration: Path | str | None = None,
    labels: Path | str | None = None,
    metric: str | None = None,
    texts: int | None = None,
    max_length: int = 128,
    row_dtype: scales.RowDtype = "F32",
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Record:
    """Replace `scales.safetensors` alone, atomically: every kept value will be divided by `divide_by`.

    `divide_by`: "dare" (each tensor's kept share), a number for all, a mapping from tensor names to a number or to one
    number a row (tensors it does not name keep theirs), or a rule of `jobs.search.RULES`, which looks for divisors on
    texts (`calibration`, the first `texts` of them) or labelled texts (`labels`, by `metric`), and needs `base` and,
    but for "labels", `tuned`. `numbers` then holds the curve and the forward passes. `row_dtype` is how numbers of rows
    are stored: F16 takes two bytes a row, and what it cannot hold is refused (a rule takes it where it can). DAREx-q,
    arXiv 2410.09344, section 3. The
    factors of a low-rank tensor T are named T:A and T:B: a number for all divides both, and so their product by its
    square.

    Raises FormatError for a damaged delta, SettingError for a divisor, name, rule or text that cannot be, BaseError for
    another base, CheckpointError for a model that cannot be built; then nothing is written.
    """
    meter = Meter.start()
    opened = open_delta(delta)
    pruned = opened.masked
    if not pruned:
        raise SettingError(str(delta), "has no pruned tensor to rescale")
    evidence = Evidence(calibration=calibration, labels=labels, metric=metric, texts=texts, max_length=max_length)
    numbers: dict[str, Any] = {}
    if isinstance(divide_by, str) and divide_by in RULES:
        check_rule(divide_by, evidence, tuned=tuned is not None)
        if base is None:
            raise SettingError(f"--divide-by {divide_by}", "needs the base model", fix="give it with --base MODEL")
        known = None if tuned is None else Path(tuned)
        with variant(opened, Path(base), tuned=known, device=device) as live:
            found = search(live, divide_by, evidence, progress=progress)
        chosen, numbers, row_dtype = dict(found.divisors), {"search": found.numbers}, narrowest(found.divisors)
    else:
        chosen = _divisors(opened, pruned, divide_by)
    data = scales.scales_bytes(chosen, opened.digest, row_dtype=row_dtype)
    with staged_file(Path(delta) / scales.NAME, force=True) as place:
        place.write_bytes(data)
    shown = divide_by if isinstance(divide_by, float | int | str) else sorted(divide_by)
    numbers = {**meter.numbers(), "tensors": len(pruned), "scales_bytes": len(data), **numbers}
    settings = {"delta": str(delta), "divide_by": shown, "base": str(base or ""), "tuned": str(tuned or "")}
    return Record(job="rescale", settings=settings, numbers=numbers)


def _divisors(delta: Delta, pruned: Mapping[str, Masked], divide_by: float | str | Divisors) -> dict[str, F64]:
    if isinstance(divide_by, Mapping):
        unknown = sorted(set(divide_by) - set(pruned))
        if unknown:
            raise SettingError("divide-by", f"{unknown[0]} is not a pruned tensor or factor of {delta.path}")
        given = {name: np.asarray(value, np.float64) for name, value in divide_by.items()}
        for name, value in given.items():
            rows = pruned[name].common.shape[:1]
            if value.shape not in ((), rows):
                raise SettingError(f"divide-by of {name}", f"has shape {value.shape}", expected=f"() or {rows}")
        return {name: given.get(name, delta.divisors[name]) for name in pruned}
    if divide_by == "dare":
        return {name: np.array(tensor.dare_divisor, np.float64) for name, tensor in pruned.items()}
    return dict.fromkeys(pruned, np.array(divisor_number(divide_by), np.float64))
