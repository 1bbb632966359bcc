"""Imbalanced texts (Reuters R8, 70 to 1): which loss and which shift after training help, and was it said beforehand.

Not judged: rows beside P5, under `--full`.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64
from deltagram.data.packages import Texts
from deltagram.errors import ExtraError
from deltagram.geometry.diagnosis import diagnose
from deltagram.geometry.shift import fitted_shift, fitted_tau
from deltagram.papers.bench import Bench, Variant, texts_digest
from deltagram.papers.darex_training import by_job
from deltagram.papers.nets import LOSSES
from deltagram.papers.points import Row, loss_of
from deltagram.papers.tasks import VARIANTS, Task
from deltagram.store.checkpoint import open_checkpoint
from deltagram.training.features import head_inputs, head_of
from deltagram.training.freefeatures import FreeFeatures
from deltagram.training.loaded import batches, loaded
from deltagram.training.metrics import METRICS

R8: Final = VARIANTS["r8"]
I64 = NDArray[np.int64]


def texts(bench: Bench, *, seed: int, task: Task = R8, losses: Sequence[str] = tuple(LOSSES)) -> list[Row]:
    """A row a loss: balanced accuracy as it is and under shifts, what was expected of a shift, and causes named.

    One half of the test texts of each class is diagnosed, and shifts are fitted to it; accuracies are of the other.
    Where a package is missing, one row says so.
    """
    try:
        return [_row(bench, task, loss, seed) for loss in losses]
    except ExtraError as fault:
        return [{"texts": task.name, "not_run": str(fault)}]


def _row(bench: Bench, task: Task, loss: str, seed: int) -> Row:
    variant = by_job(bench, task, seed=seed, name=f"loss-{loss}", **LOSSES[loss])
    told = {"texts": variant.name, "loss": loss, "seed": seed, "test": texts_digest(variant.data.test)}
    return told | bench.notes.once(told, lambda: _measured(variant, loss))


def _measured(variant: Variant, loss: str) -> dict[str, Any]:
    label = np.asarray(variant.data.test.label, np.int64)
    features, w, bias = heads(variant, variant.data.test)
    counts = np.bincount(variant.data.train.label, minlength=len(w))
    fit = _first_half(label)
    problem = FreeFeatures(loss=loss_of(loss, counts.tolist()), counts=counts, dim=len(w)).problem
    said = diagnose(features[fit], label[fit], w, bias, problem=problem, loss=loss)
    logits = features @ w.T + bias
    prior = counts / counts.sum()
    shifts = {
        "as_it_is": np.zeros(len(w)), "fitted_shift": fitted_shift(logits[fit], label[fit]),
        "fitted_tau": fitted_tau(logits[fit], label[fit], prior) * np.log(prior), "log_prior": np.log(prior),
    }  # fmt: skip
    score = METRICS["balanced-accuracy"]
    found = {name: score(label[~fit], (logits[~fit] - shift).argmax(1)) for name, shift in shifts.items()}
    return {
        "counts": counts.tolist(), **{name: float(value) for name, value in found.items()},
        "said_as_it_is": said.balanced_recall, "said_shift": said.repaired["shift"],
        "said_repairs": dict(said.repaired),
        "causes": {variant.data.classes[c]: cause for c, cause in said.causes.items()},
    }  # fmt: skip


def _first_half(label: I64) -> NDArray[np.bool_]:
    """Every other text of each class."""
    found = np.zeros(len(label), bool)
    for kind in np.unique(label):
        found[np.flatnonzero(label == kind)[::2]] = True
    return found


def heads(variant: Variant, test: Texts) -> tuple[F64, F64, F64]:
    """What the head sees of each text, its weights and its bias."""
    with loaded(variant.folder, open_checkpoint(variant.folder).specs) as run:
        head = head_of(run)
        rows = np.empty((len(test), head.weight.shape[1]))
        for inputs, samples in head_inputs(run, head, batches(run, test.text, max_length=variant.task.max_length)):
            rows[list(samples)] = inputs
        return rows, head.weight, np.zeros(len(head.weight)) if head.bias is None else head.bias
