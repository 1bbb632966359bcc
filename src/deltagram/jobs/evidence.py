"""Texts, labelled or not, that a job may look at, as batches of a loaded model; and what is measured on them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F64
from deltagram.data.tables import class_index, read_table
from deltagram.errors import SettingError
from deltagram.training import outputs
from deltagram.training.loaded import Batch, Loaded, batches
from deltagram.training.metrics import METRICS, PERPLEXITY

SEARCHED: Final = 64
FITTED: Final = 512
_RESAMPLED: Final = 200
_ALL: Final = slice(None)
I64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The texts a search may look at, and how.

    `calibration` and `labels` are files, folders or Hub ids (`data.tables`); `texts` is how many of the former are
    looked at: `SEARCHED` unless given, or `FITTED` where something is fitted to them. For a language model `labels`
    are texts, and the metric is their `perplexity`.
    """

    calibration: Path | str | None = None
    labels: Path | str | None = None
    metric: str | None = None
    texts: int | None = None
    max_length: int = 128

    @property
    def searched(self) -> int:
        """Texts that searches and statistics look at."""
        return self.texts or SEARCHED

    @property
    def fitted(self) -> int:
        """Texts that something is fitted to by gradient."""
        return self.texts or FITTED

    def check_readable(self) -> None:
        """Raise SettingError, before a model is loaded, for texts that cannot be read."""
        for source in (self.calibration, self.labels):
            if source is not None:
                read_table(source, labelled=False)

    def __post_init__(self) -> None:
        for name, value in (("--texts", self.texts), ("--max-length", self.max_length)):
            if value is not None and value < 1:
                raise SettingError(name, f"is {value}", expected="a positive number")
        if self.metric is not None and self.metric not in (*METRICS, PERPLEXITY):
            raise SettingError("--metric", f"{self.metric!r} is unknown", expected=" or ".join((*METRICS, PERPLEXITY)))


def calibration_batches(run: Loaded, evidence: Evidence, *, most: int | None = None) -> list[Batch]:
    """The first `texts` (or `most`) calibration texts in batches. Raises SettingError for a file without any."""
    if evidence.calibration is None:
        raise SettingError("--calibration", "is missing", fix="give a file of texts")
    table = read_table(evidence.calibration, labelled=False)
    return batches(run, table.text[: most or evidence.searched], max_length=evidence.max_length)


@dataclass(frozen=True, kw_only=True)
class LabelledTexts:
    """Texts, the class number of each (None for a language model), and the metric they are for."""

    text: tuple[str, ...]
    truth: tuple[int, ...] | None
    metric: str


def labelled_texts(run: Loaded, evidence: Evidence) -> LabelledTexts:
    """The labelled texts of `evidence`, all checked against what `run` is.

    Raises SettingError for a model that is neither a classifier nor a language model, for unknown labels or a class
    without any, and for a metric that the model does not have.
    """
    if evidence.labels is None:
        raise SettingError("--labels", "is missing", fix="give a file of labelled texts")
    metric = evidence.metric or (PERPLEXITY if run.kind == "decoder" else "accuracy")
    if (metric == PERPLEXITY) != (run.kind == "decoder"):
        kind = "a language model" if run.kind == "decoder" else "a classifier"
        expected = PERPLEXITY if run.kind == "decoder" else " or ".join(METRICS)
        raise SettingError("--metric", f"is {metric} for {kind}", expected=expected)
    if metric == PERPLEXITY:
        table = read_table(evidence.labels, labelled=False)
        return LabelledTexts(text=table.text, truth=None, metric=metric)
    source = str(evidence.labels)
    if not trained_classifier(run):
        found = f"{type(run.model).__name__} is no trained classifier"
        raise SettingError(source, f"cannot be predicted: {found}", fix="use --calibration with the rule output")
    table = read_table(source, labelled=True)
    truth = class_index(table.label or (), run.classes, source=source)
    if len(set(truth)) < len(run.classes):
        absent = [name for index, name in enumerate(run.classes) if index not in set(truth)]
        raise SettingError(
            source, f"has no label of {len(absent)} of the {len(run.classes)} classes: {', '.join(absent[:4])}",
            expected="every class at least once", fix="add texts of those classes",
        )  # fmt: skip
    return LabelledTexts(text=table.text, truth=truth, metric=metric)


def trained_classifier(run: Loaded) -> bool:
    """Whether the model is a classifier whose head is in its checkpoint."""
    return bool(run.classes) and not any(name.startswith(("classifier", "score")) for name in run.missing)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labelled texts in batches, and what a model gets wrong on them.

    `outcomes` asks the model: a row a text. `error_of` is the number to be minimised (the metric with its sign turned,
    or the perplexity) of all rows or of the chosen ones, which may repeat.
    """

    batches: list[Batch]
    metric: str
    texts: int
    outcomes: Callable[[], F64]
    error_of: Callable[..., float]

    def error(self) -> float:
        """Of the model as it is."""
        return self.error_of(self.outcomes())

    def noise(self, found: F64, reference: F64) -> float:
        """Standard error of the error of `found` above that of `reference`: other texts might have been labelled.

        A paired bootstrap over texts.
        """
        rng = np.random.default_rng(0)
        drawn = (rng.integers(0, len(found), len(found)) for _ in range(_RESAMPLED))
        return float(np.nanstd([self.error_of(found, at) - self.error_of(reference, at) for at in drawn]))


def labelled(run: Loaded, evidence: Evidence) -> Labelled:
    """What `run` (as it will be when asked) gets wrong on the labelled texts. Raises what `labelled_texts` does."""
    known = labelled_texts(run, evidence)
    return measured(run, known, max_length=evidence.max_length)


def measured(run: Loaded, known: LabelledTexts, *, max_length: int) -> Labelled:
    """The metric of `run`, as it will be when asked, on labelled texts."""
    made = batches(run, known.text, max_length=max_length)
    if known.truth is None:
        return Labelled(
            batches=made, metric=known.metric, texts=len(known.text), outcomes=lambda: outputs.text_nll(run, made),
            error_of=_perplexity,
        )  # fmt: skip
    order = [sample for batch in made for sample in batch.samples]
    truth = np.asarray(known.truth, np.int64)[order]

    def error_of(found: F64, chosen: I64 | slice = _ALL) -> float:
        return -METRICS[known.metric](truth[chosen], found[chosen].astype(np.int64))

    return Labelled(
        batches=made, metric=known.metric, texts=len(known.text), error_of=error_of,
        outcomes=lambda: outputs.predictions(run, made)[order].astype(np.float64),
    )  # fmt: skip


def _perplexity(found: F64, chosen: I64 | slice = _ALL) -> float:
    total, count = found[chosen].sum(0)
    return float(np.exp(total / count))
