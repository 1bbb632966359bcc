"""features and labels, or a classifier and texts -> collapse numbers, each with its convention."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.data.scores import ClassScores
from deltagram.data.tables import class_index, read_table
from deltagram.errors import SettingError
from deltagram.geometry.gram import Geometry
from deltagram.geometry.measure import Collapse, collapse, counted
from deltagram.geometry.moments import ClassMoments, occurring
from deltagram.geometry.nearest import Decisions, decisions
from deltagram.geometry.predict import TARGETS
from deltagram.geometry.problem import Problem
from deltagram.geometry.samples import I64, classifier_weights
from deltagram.jobs.featurefile import SUFFIXES, read_features
from deltagram.jobs.geometryfile import read_geometry
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.checkpoint import open_checkpoint
from deltagram.store.staging import check_output, staged_file
from deltagram.training.features import head_inputs, head_of
from deltagram.training.loaded import batches, loaded

KEPT_BYTES = 1 << 30  # of features, for what needs the final means


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measured:
    """Moments, the classifier, and (unless the features were too many to keep) what was decided of each sample."""

    moments: ClassMoments
    classifier: Any
    decided: Decisions | None
    labels: I64
    names: Sequence[str]


def measure(
    source: Path | str,
    data: Path | str | None = None,
    *,
    classes: int | None = None,
    weighting: str = "class",
    centring: str | Sequence[float] | None = None,
    against: Sequence[str] = ("etf",),
    class_counts: ArrayLike | None = None,
    power: int = 2,
    text: str = "text",
    label: str = "label",
    split: str | None = None,
    max_length: int = 128,
    device: str = "cpu",
    out: Path | str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Record:
    """Measure the geometry of `source`: a .npz or .safetensors file of features, or a text classifier run on `data`.

    The file holds `features` (sample, feature) and `labels` (sample), perhaps `classifier` (class, feature) and `bias`
    (class). Of a classifier, features are the inputs of its last linear layer. `classes` counts classes of a file
    beyond its largest label. `weighting`, `centring` and `power` (of CDNV) as in `geometry.measure`; `against` are
    names in `geometry.predict.TARGETS`, for the `class_counts` of training (default: those measured), or files that
    `predict` wrote. Writes the record to `out` if that is given, and nothing else.

    Raises SettingError, CheckpointError, OutputError or ExtraError; then nothing is written.
    """
    meter, source = Meter.start(), Path(source)
    known = {name: read_geometry(Path(name)) for name in against if Path(name).suffix == ".json"}
    unknown = [name for name in against if name not in TARGETS and name not in known]
    if unknown:
        expected = f"{' or '.join(TARGETS)}, or a .json file that predict wrote"
        raise SettingError("against", f"{unknown[0]!r} is unknown", expected=expected)
    inputs = [source, *map(Path, known), *([Path(data)] if data is not None and Path(data).exists() else [])]
    if out is not None:
        check_output(Path(out), force=force, inputs=inputs, lone=True)
    if data is None:
        found = _file(source, classes=classes, weighting=weighting)
    elif classes is not None:
        raise SettingError("classes", "are those of the model", fix="leave --classes out")
    else:
        table = read_table(data, labelled=True, text=text, label=label, split=split)
        found = _model(
            source, table.text, table.label or (), str(data), weighting=weighting, max_length=max_length,
            device=device, progress=progress,
        )  # fmt: skip
    counts = _counts(found.moments, class_counts)
    targets = [known[name] if name in known else TARGETS[name](counts) for name in against]
    numbers = _numbers(found, weighting=weighting, centring=centring, targets=targets, power=power)
    settings = {
        "source": str(source), "data": None if data is None else str(data), "classes": classes,
        "weighting": weighting, "centring": centring, "against": list(against), "power": power,
        "class_counts": None if class_counts is None else counts.tolist(),
        "out": None if out is None else str(out),
    }  # fmt: skip
    record = Record(job="measure", settings=settings, numbers={**numbers, **meter.numbers()})
    if out is not None:
        with staged_file(Path(out), force=force, inputs=inputs) as path:
            path.write_text(record.line() + "\n")
    return record


def _file(path: Path, *, classes: int | None, weighting: str) -> _Measured:
    """What a file of features holds."""
    if path.is_dir():
        fix = "give labelled texts too: deltagram measure MODEL DATA"
        raise SettingError(str(path), "is a folder", expected=f"a file ({' or '.join(SUFFIXES)})", fix=fix)
    held = read_features(path)
    if held.classifier is None and held.bias is not None:
        raise SettingError(str(path), "has a bias and no classifier", fix="save the classifier's weights too")
    many = classes if classes is not None or held.classifier is None else len(held.classifier)
    moments = counted(held.features, held.labels, classes=many, weighting=weighting)
    decided = None
    if held.classifier is not None:
        classifier_weights(held.classifier, classes=moments.classes, width=moments.features)
        decided = decisions(held.features, moments, classifier=held.classifier, bias=held.bias)
    labels = held.labels.astype(np.int64)
    return _Measured(moments=moments, classifier=held.classifier, decided=decided, labels=labels, names=())


def _model(
    folder: Path, texts: Sequence[str], labels: Sequence[str], source: str, *, weighting: str, max_length: int,
    device: str, progress: Progress,
) -> _Measured:  # fmt: skip
    """The inputs of a classifier's head on labelled texts, one batch at a time."""
    with loaded(folder, open_checkpoint(folder).specs, device=device) as run:
        head = head_of(run)
        numbers = np.array(class_index(labels, run.classes, source=source), np.int64)
        parts = batches(run, texts, max_length=max_length)
        order = np.concatenate([part.samples for part in parts]).astype(np.int64)
        known = np.bincount(numbers[order], minlength=len(run.classes)) if weighting == "class" else None
        moments = ClassMoments.empty(len(run.classes), head.weight.shape[1], class_counts=known)
        kept, fits = [], len(order) * head.weight.shape[1] * 4 <= KEPT_BYTES
        for done, (inputs, samples) in enumerate(head_inputs(run, head, parts), 1):
            moments.update_in_place(inputs, numbers[list(samples)])
            kept += [inputs] if fits else []
            progress.advance("features", done, len(parts))
        decided = decisions(np.concatenate(kept), moments, classifier=head.weight, bias=head.bias) if fits else None
        return _Measured(
            moments=moments, classifier=head.weight, decided=decided, labels=numbers[order], names=run.classes
        )


def _counts(moments: ClassMoments, given: ArrayLike | None) -> F64:
    """Samples in training of the classes that occur."""
    there = occurring(moments)
    if given is None:
        return moments.counts[there].astype(np.float64)
    counts = Problem.of(given).counts
    if len(counts) != moments.classes:
        raise SettingError("class_counts", f"{len(counts)} numbers", expected=f"{moments.classes}, one a class")
    found: F64 = counts[there]
    return found


def _numbers(
    found: _Measured, *, weighting: str, centring: str | Sequence[float] | None, targets: Sequence[Geometry], power: int
) -> dict[str, Any]:
    measured: Collapse = collapse(
        found.moments, classifier=found.classifier, decided=found.decided, weighting=weighting, centring=centring,
        against=targets, power=power,
    )  # fmt: skip
    numbers = measured.numbers()
    if found.names:
        numbers["classes"]["names"] = [found.names[c] for c in measured.classes.numbers]
    if found.decided is not None:
        for who, guess in (("classifier", found.decided.decided), ("nearest_mean", found.decided.nearest)):
            scores = ClassScores.of(found.labels, guess, classes=found.moments.classes)
            numbers[f"{who}_balanced_accuracy"] = scores.balanced_accuracy
            numbers[f"{who}_worst"] = dict(zip(("class", "recall"), scores.worst, strict=True))
            numbers["classes"][f"{who}_recall"] = scores.recall[measured.classes.numbers].tolist()
    return numbers
