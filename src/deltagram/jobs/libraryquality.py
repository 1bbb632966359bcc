"""How good a variant was measured to be, as a library records it: numbers by metric."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deltagram.errors import SettingError
from deltagram.records import Record
from deltagram.training.metrics import METRICS, PERPLEXITY

_LONGEST = 64


def quality(given: Mapping[str, float], record: Path | str | None) -> dict[str, float]:
    """What was given, over what the last line of a file of records says.

    Raises SettingError for a number that is not finite, and for a record without a metric.
    """
    found = {} if record is None else _recorded(Path(record))
    for metric, number in given.items():
        if not math.isfinite(number):
            raise SettingError("--quality", f"{metric} is {number}", expected="a finite number")
        if not metric or len(metric) > _LONGEST or not metric.isprintable():
            shown = metric[:_LONGEST]
            raise SettingError("--quality", f"{shown!r} is no name of a metric", expected="such as accuracy")
    return {**found, **{metric: float(number) for metric, number in given.items()}}


def _recorded(path: Path) -> dict[str, float]:
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
        record = Record.model_validate(json.loads(lines[-1]))
    except OSError as fault:
        raise SettingError("--record", f"{path} cannot be read ({fault.strerror})") from None
    except (ValueError, IndexError, RecursionError, ValidationError):
        raise SettingError("--record", f"{path} does not end with a record", expected="what --json prints") from None
    found = {name: float(number) for name, number in _metrics(record.numbers).items() if _finite(number)}
    if not found:
        names = ", ".join((*METRICS, PERPLEXITY))
        raise SettingError(
            "--record", f"{path} holds no metric (it is a record of {record.job})", expected=f"one of {names}",
            fix="give the record of train --eval, select --labels or rescale --labels, or --quality NAME=NUMBER",
        )  # fmt: skip
    return found


def _finite(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)


def _metrics(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that `train`, `select` and `rescale` write, each where that job has it."""
    known = (*METRICS, PERPLEXITY)
    found = {name: numbers[name] for name in known if name in numbers}
    best, name = numbers.get("recommended"), str(numbers.get("score", "")).removesuffix(" lost")
    if isinstance(best, Mapping):
        found |= {name: best.get("metric")} if name in known else {}
        found |= {"agreement": best.get("agreement")}
    search = numbers.get("search")
    if isinstance(search, Mapping) and search.get("measure") in known:
        found[str(search["measure"])] = search.get("value")
    return found
