"""Plans whose methods weigh entries by the inputs of linear layers: what they become where there are no inputs."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from deltagram.delta.methods import Calibrated, ColumnsMagnitude, ColumnsWanda, Magnitude, Method, Random, Wanda
from deltagram.delta.plan import Entry, Plan
from deltagram.delta.scores import InputNorms
from deltagram.errors import PlanError


def calibrated(plan: Plan, norms: Mapping[str, InputNorms]) -> Plan:
    """The plan with every method changed that a tensor has no inputs for; the entry's `reason` tells.

    Without norms (embeddings, and whatever else is no linear layer's weight) the score is plain magnitude. Of weights
    stored (input, output), `wanda-rows` becomes `wanda` and `columns-wanda` random. Raises PlanError for norms that
    do not fit their tensor.
    """
    return replace(plan, entries=tuple(_calibrated(entry, norms.get(entry.name)) for entry in plan.entries))


def _calibrated(entry: Entry, norms: InputNorms | None) -> Entry:
    if entry.form not in ("pruned", "resized") or not isinstance(entry.method, Calibrated):
        return entry
    if norms is None:
        return _instead(entry, _by_magnitude(entry.method), "no input norms: by magnitude")
    _check(entry, norms)
    if not norms.transposed or isinstance(entry.method, Wanda):
        return entry
    if isinstance(entry.method, ColumnsWanda):
        return _instead(entry, Random(keep=entry.method.keep), "stored (input, output): random instead of columns")
    return _instead(entry, Wanda(keep=entry.method.keep), "stored (input, output): over the whole tensor")


def _by_magnitude(method: Calibrated) -> Method:
    if isinstance(method, ColumnsWanda):
        return ColumnsMagnitude(keep=method.keep, columns=method.columns)
    return Magnitude(keep=method.keep)


def _instead(entry: Entry, method: Method, why: str) -> Entry:
    return replace(entry, method=method, reason=f"{entry.reason}; {why}")


def _check(entry: Entry, norms: InputNorms) -> None:
    shape = entry.common
    wanted = 0 if len(shape) != 2 else entry.tuned.shape[0 if norms.transposed else 1]
    if norms.values.shape != (wanted,) or (norms.transposed and shape != entry.tuned.shape):
        raise PlanError(
            entry.name, f"has shape {entry.tuned.shape}, its inputs {norms.values.shape}",
            expected="one norm an input column", fix=f"store it whole with --whole '{entry.name}'",
        )  # fmt: skip
    if not (np.isfinite(norms.values).all() and (norms.values >= 0).all()):
        raise PlanError(
            entry.name, "an input of it is not finite on the calibration text",
            fix="check the fine-tuned model and the calibration file",
        )  # fmt: skip
