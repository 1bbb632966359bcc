"""features, labels and a classifier, or a model and texts -> why classes fail, and what helps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.data.tables import class_index, read_table
from deltagram.errors import SettingError
from deltagram.geometry import diagnosis
from deltagram.geometry.samples import I64
from deltagram.jobs.featurefile import read_features
from deltagram.jobs.lossproblem import problem_of
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.checkpoint import open_checkpoint
from deltagram.store.staging import check_output, staged_file
from deltagram.training.features import head_inputs, head_of
from deltagram.training.loaded import batches, loaded


@dataclass(frozen=True, kw_only=True, eq=False)
class _Held:
    """What a classifier sees of held-out samples, and the classifier."""

    features: F64
    labels: I64
    classifier: F64
    bias: F64 | None
    names: Sequence[str]


def diagnose(
    source: Path | str,
    data: Path | str | None = None,
    *,
    class_counts: ArrayLike,
    loss: str = "ce",
    gamma: float | None = None,
    tau: float | None = None,
    class_scale: ArrayLike | None = None,
    label_scale: ArrayLike | None = None,
    class_weight: ArrayLike | Literal["balanced"] | None = None,
    text: str = "text",
    label: str = "label",
    split: str | None = None,
    max_length: int = 128,
    device: str = "cpu",
    out: Path | str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Record:
    """Say of each class whether it fails, which cause fits, and what to do; as `geometry.diagnosis.diagnose`.

    `source` is a .npz or .safetensors file with `features`, `labels`, `classifier` and perhaps `bias`, or a text
    classifier's folder with labelled texts in `data`: held out from training, both. `class_counts` are those of
    training; loss and parameters as in `predict`. Writes the record to `out` if that is given.

    Raises SettingError, CheckpointError, OutputError or ExtraError; then nothing is written.
    """
    meter, source = Meter.start(), Path(source)
    problem = problem_of(
        class_counts, loss=loss, gamma=gamma, tau=tau, class_scale=class_scale, label_scale=label_scale,
        class_weight=class_weight,
    )  # fmt: skip
    inputs = [source, *([Path(data)] if data is not None and Path(data).exists() else [])]
    if out is not None:
        check_output(Path(out), force=force, inputs=inputs, lone=True)
    if data is None:
        held = _file(source)
    else:
        table = read_table(data, labelled=True, text=text, label=label, split=split)
        held = _model(
            source, table.text, table.label or (), str(data), max_length=max_length, device=device, progress=progress
        )
    found = diagnosis.diagnose(held.features, held.labels, held.classifier, held.bias, problem=problem, loss=loss)
    numbers = found.numbers() | {"names": list(held.names), "samples": len(held.labels)} | meter.numbers()
    settings = {
        "source": str(source), "data": None if data is None else str(data), "loss": loss, "gamma": gamma, "tau": tau,
        "class_counts": problem.counts.tolist(), "out": None if out is None else str(out),
    }  # fmt: skip
    record = Record(job="diagnose", settings=settings, numbers=numbers)
    if out is not None:
        with staged_file(Path(out), force=force, inputs=inputs) as path:
            path.write_text(record.line() + "\n", "utf-8")
    return record


def _file(path: Path) -> _Held:
    if path.is_dir():
        fix = "give labelled texts too: deltagram diagnose MODEL DATA"
        raise SettingError(str(path), "is a folder", expected="a file of features", fix=fix)
    held = read_features(path)
    if held.classifier is None:
        raise SettingError(
            str(path), "has no classifier", fix="save the head's weights (class, feature) as 'classifier'"
        )
    as_floats: dict[str, Any] = {"features": held.features, "classifier": held.classifier, "bias": held.bias}
    given = {name: None if value is None else np.asarray(value, np.float64) for name, value in as_floats.items()}
    return _Held(**given, labels=np.asarray(held.labels, np.int64), names=())  # type: ignore[arg-type]


def _model(
    folder: Path, texts: Sequence[str], labels: Sequence[str], source: str, *, max_length: int, device: str,
    progress: Progress,
) -> _Held:  # fmt: skip
    """The inputs of a text classifier's head."""
    with loaded(folder, open_checkpoint(folder).specs, device=device) as run:
        head = head_of(run)
        numbers = np.array(class_index(labels, run.classes, source=source), np.int64)
        parts = batches(run, texts, max_length=max_length)
        rows = np.empty((len(texts), head.weight.shape[1]))
        for done, (inputs, samples) in enumerate(head_inputs(run, head, parts), 1):
            rows[list(samples)] = inputs
            progress.advance("features", done, len(parts))
        return _Held(
            features=rows, labels=numbers, classifier=head.weight, bias=head.bias, names=tuple(run.classes)
        )  # fmt: skip
