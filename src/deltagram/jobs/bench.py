"""The fine-tuned model, loaded once, on which pruned deltas are put one after the other and measured."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from deltagram.arrays import F64, Bits, as_floats
from deltagram.delta.plan import Plan
from deltagram.delta.stored import Pruned, Whole
from deltagram.errors import SettingError
from deltagram.jobs import guarantee
from deltagram.jobs.evidence import Evidence, Labelled, measured, trained_classifier
from deltagram.jobs.runnable import runnable
from deltagram.jobs.texts import FEWEST, FITTED, Parts, parts
from deltagram.store.adapter import Tuned
from deltagram.store.checkpoint import Checkpoint
from deltagram.training import distil, outputs
from deltagram.training.loaded import Batch, Loaded, batches, loaded
from deltagram.training.trial import Divisors, Trial

_LOGITS: Final = 1 << 26
NOTHING: Final[Mapping[str, Whole]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Score:
    """How far a variant is from the fine-tuned model; `loss` is what is minimised, `change` parts those alike in it.

    `change`: mean absolute change of what it says, over that of leaving out the delta (0: none, 1: as bad as without
    it); of a trained classifier the class probabilities, of other models the last hidden states. `loss`: the metric
    that is lost on labelled texts, and `noise` its standard error over texts; without any, `change`, and 0.
    `agreement`: share of the choosing texts decided alike.
    """

    loss: float
    change: float
    noise: float = 0.0
    metric: float | None = None
    agreement: float | None = None


def ranked(scores: Sequence[Score], *, at_most: float = math.inf) -> list[int]:
    """Places in `scores`, the best first; of equals the earlier one.

    Those whose loss the labels cannot tell from the least come first (within the `noise` of the least: the rule of one
    standard error of Breiman et al. 1984, and no more than `at_most`), the least changed of them leading. Without
    labels there is no noise, and loss is change.
    """
    least = min(scores, key=lambda score: (score.loss, score.change))
    bound = max(least.loss, min(least.loss + least.noise, at_most))

    def order(place: int) -> tuple[bool, float, float]:
        score = scores[place]
        return score.loss > bound, score.change if score.loss <= bound else score.loss, score.change

    return sorted(range(len(scores)), key=order)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """`run` holds the fine-tuned model until `put` is called, and again after `clear`."""

    run: Loaded
    base: Checkpoint
    tuned: Tuned
    plan: Plan
    texts: Parts
    scored: list[Batch]
    fitted: list[Batch]
    held_out: list[Batch]
    expected: "Expected"
    labelled: Labelled | None
    touched: set[str]

    def put(self, stored: Mapping[str, Pruned], coded: Mapping[str, Whole] = NOTHING) -> Trial:
        """Put pruned and coded tensors on the model, all others being the fine-tuned ones; divisors are to be set."""
        self.clear()
        self.touched.update([*stored, *coded])
        for name, tensor in coded.items():
            self._write(name, tensor.bits, tensor.spec.dtype)
        return Trial(self.run, stored, self._base_bits)

    def clear(self) -> None:
        """Put the fine-tuned tensors back."""
        for name in self.touched:
            spec = self.tuned.specs[name]
            self._write(name, self.tuned.bits(name, 0, spec.size), spec.dtype)
        self.touched.clear()

    def _write(self, name: str, bits: Bits, dtype: str) -> None:
        import torch  # noqa: PLC0415 - whoever has a bench has it loaded

        floats = as_floats(bits, dtype).astype(np.float32)
        with torch.no_grad():
            self.run.parameters[name].data.view(-1).copy_(torch.from_numpy(floats))

    def _base_bits(self, name: str) -> Bits:
        return self.base.bits(name, 0, self.base.specs[name].size)

    def raw_change(self) -> float:
        """Mean absolute change from what the fine-tuned model says, in its own unit."""
        if self.expected.probabilities is not None:
            return float(np.abs(_probabilities(self.run, self.scored) - self.expected.probabilities).mean())
        return outputs.output_change(self.run, self.scored, self.expected.hidden)

    @property
    def score_name(self) -> str:
        """What is minimised, in words."""
        if self.labelled is not None:
            return f"{self.labelled.metric} lost"
        what = "last hidden states" if self.expected.probabilities is None else "class probabilities"
        return f"mean change of the {what}, relative to leaving the delta out"

    def change(self) -> float:
        """The label-free score of what is on the model."""
        return self.raw_change() / self.expected.unit

    def score(self) -> Score:
        """Everything measured of what is on the model. Raises SettingError where a number is not finite."""
        change, metric, noise = self.change(), None, 0.0
        loss = change
        if self.labelled is not None:
            found = self.labelled.outcomes()
            error = self.labelled.error_of(found)
            loss, noise = error - self.expected.error, self.labelled.noise(found, self.expected.outcomes)
            metric = self.shown(error)
        agreement = None
        if guarantee.counted(self.run):
            now = guarantee.decisions(self.run, self.scored)
            agreement = float((now == self.expected.scored).mean())
        if not (math.isfinite(loss) and math.isfinite(change)):
            raise SettingError("the score", f"is {loss} (output change {change})", fix="check the model and the texts")
        return Score(loss=loss, change=change, noise=noise, metric=metric, agreement=agreement)

    def shown(self, error: float) -> float:
        """A metric as people know it, from the error that is minimised."""
        return error if self.run.kind == "decoder" else -error

    def guarantee(
        self, stored: Mapping[str, Pruned], coded: Mapping[str, Whole], divisors: Divisors
    ) -> guarantee.Guarantee | None:
        """What the held-out texts say of a delta; None for a model that decides nothing about a text as a whole."""
        what = guarantee.counted(self.run)
        if not what:
            return None
        self.clear()
        expected = guarantee.decisions(self.run, self.held_out)
        self.put(stored, coded).set(divisors)
        return guarantee.guarantee(guarantee.decisions(self.run, self.held_out), expected, counted=what)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the fine-tuned model says: hidden states or class probabilities, targets, decisions, what it gets wrong on
    labelled texts (`outcomes`, and their `error`); and the unit of change."""

    hidden: list[Any]
    probabilities: F64 | None
    targets: list[distil.Target]
    scored: guarantee.Decisions
    outcomes: F64
    error: float
    unit: float


@contextmanager
def bench(
    base: Checkpoint,
    tuned: Tuned,
    plan: Plan,
    stored: Mapping[str, Pruned],
    evidence: Evidence,
    *,
    device: str = "cpu",
) -> Iterator[Bench]:
    """Load the fine-tuned model and run it on all texts; `stored` are pruned tensors, `plan` tells how all are paired.

    Raises CheckpointError for a model that cannot be built, SettingError for texts that cannot be used and for a
    fine-tuned model whose own numbers are not finite.
    """
    with runnable(tuned) as folder, loaded(folder, tuned.specs, device=device) as run:
        texts = parts(run, evidence)
        texts = replace(texts, fitted=texts.fitted[: _most_fitted(run, evidence.max_length)])
        scored, fitted, held_out = (
            batches(run, part, max_length=evidence.max_length) for part in (texts.scored, texts.fitted, texts.held_out)
        )
        given = texts.labelled
        known = None if given is None else measured(run, given, max_length=evidence.max_length)
        classifies = trained_classifier(run) and len(run.classes) > 1
        decided = bool(guarantee.counted(run))
        none = np.empty(0, np.int64)
        outcomes = known.outcomes() if known else np.empty(0)
        expected = Expected(
            hidden=[] if classifies else outputs.hidden_states(run, scored),
            probabilities=_probabilities(run, scored) if classifies else None, targets=distil.targets(run, fitted),
            scored=guarantee.decisions(run, scored) if decided else none,
            outcomes=outcomes, error=known.error_of(outcomes) if known else 0.0, unit=1.0,
        )  # fmt: skip
        made = Bench(
            run=run, base=base, tuned=tuned, plan=plan, texts=texts, scored=scored, fitted=fitted, held_out=held_out,
            expected=expected, labelled=known, touched=set(),
        )  # fmt: skip
        yield _united(made, stored)


def _united(made: Bench, stored: Mapping[str, Pruned]) -> Bench:
    """The bench whose unit of change is that of a delta of which nothing is kept."""
    made.put(stored)
    unit = made.raw_change()
    made.clear()
    if not math.isfinite(unit) or not math.isfinite(made.expected.error):
        raise SettingError(str(made.run.folder), "gives numbers that are not finite", fix="check model and texts")
    if unit <= 0:
        raise SettingError(
            str(made.run.folder), "says of these texts what its base says: there is nothing to select",
            fix="give texts of the kind it was fine-tuned on",
        )  # fmt: skip
    return replace(made, expected=replace(made.expected, unit=unit))


def _probabilities(run: Loaded, batches: Sequence[Batch]) -> F64:
    """Of a classifier, `sample class`, in the order of the batches."""
    order = [sample for batch in batches for sample in batch.samples]
    logits = outputs.class_logits(run, batches)[order].astype(np.float64)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True), np.float64)


def _most_fitted(run: Loaded, max_length: int) -> int:
    """Texts whose targets fit into memory: a language model says a vocabulary of numbers a token."""
    if run.kind == "encoder":
        return FITTED
    return max(FEWEST, _LOGITS // (max_length * int(run.model.config.vocab_size)))
