"""DAREx's choice of a method (arXiv 2410.09344, Fig. 4 and App. C.3), each step with what it was decided by."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from deltagram.delta.difference import difference
from deltagram.jobs.bench import Bench
from deltagram.training.activations import Signal, linear_weights, signals

LARGE: Final = 0.08
"""Mean |dW| over mean |W| from where deltas count as large. Ours: the paper gives none. Between fine-tunes of 6 %,
where random masks with a tuned q won, and of 10 %, where the largest entries won at moderate rates."""
MODERATE: Final = 0.95
"""The dropped share up to which chosen entries won where deltas are large. Ours, too."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A question, its answer, and why."""

    question: str
    answer: str
    because: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The way through the paper's figure, the method it ends at, and its command lines."""

    steps: tuple[Step, ...]
    leaf: str
    commands: tuple[str, ...]

    def numbers(self) -> dict[str, Any]:
        """As plain data."""
        steps = [{"question": s.question, "answer": s.answer, "because": s.because} for s in self.steps]
        return {"steps": steps, "leaf": self.leaf, "commands": list(self.commands)}


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Medians over the linear layers: DARE's predicted error over the layer's output and over the delta's part of it
    (at the dropped share p), and the mean |dW| over the mean |W|."""

    drop: float
    error_of_output: float
    error_of_delta: float
    relative: float
    layers: int


def statistics(bench: Bench, *, drop: float) -> Statistics:
    """What the decision is based on, from one pass over the scored texts; the fine-tuned model is on the bench after.

    Under DARE a layer's output has the error variance p/(1-p) Q, Q = sum_ij dW_ij^2 E[x_j^2], beside its own mean
    square E||W x||^2 and that of the delta's part, S^2 = E||dW x||^2.
    """
    import torch  # noqa: PLC0415 - whoever has a bench has it loaded

    bench.clear()
    base_of = {entry.name: entry.base_name for entry in bench.plan.entries if entry.form == "pruned"}
    weights = {name: bench.run.parameters[name] for name in linear_weights(bench.run) if name in base_of}
    moved: dict[str, Any] = {}
    relative = []
    for name, weight in weights.items():
        spec, source = bench.tuned.specs[name], base_of[name] or name
        flat = difference(
            bench.base.bits(source, 0, spec.size), bench.base.specs[source].dtype,
            bench.tuned.bits(name, 0, spec.size), spec.dtype,
        )  # fmt: skip
        moved[name] = torch.from_numpy(flat).reshape(weight.shape)
        relative.append(float(moved[name].abs().mean() / weight.abs().mean().clamp_min(1e-30)))
    delta: Mapping[str, Signal] = signals(bench.run, bench.scored, moved)
    whole = signals(bench.run, bench.scored, weights)
    rate = drop / (1 - drop)
    used = [name for name in delta if whole[name].square > 0 and delta[name].square > 0]
    return Statistics(
        drop=drop, layers=len(used), relative=_median(relative),
        error_of_output=_median([math.sqrt(rate * delta[n].spread / whole[n].square) for n in used]),
        error_of_delta=_median([math.sqrt(rate * delta[n].spread / delta[n].square) for n in used]),
    )  # fmt: skip


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else 0.0


def decide(
    found: Statistics, *, may_retrain: bool, labels: bool, kind: str, base: str, tuned: str, files: Mapping[str, str]
) -> Decision:
    """The paper's pipeline; `files` holds the calibration and labelled texts a person gave."""
    keep = f"{1 - found.drop:.4g}"
    prune = f"deltagram prune {base} {tuned} DELTA --keep {keep}"
    retrain = Step(
        question="may the model be fine-tuned again?", answer="yes" if may_retrain else "no",
        because="--may-retrain was given" if may_retrain else "--may-retrain was not given",
    )  # fmt: skip
    texts = files.get("calibration", "TEXTS")
    if may_retrain:
        commands = (
            f"deltagram train {base} DATA --out AGAIN --pull l2 --strength 0.01",
            f"deltagram prune {base} AGAIN DELTA --keep {keep} --divide-by output --calibration {texts}",
        )
        leaf = "DAREx-L2-q: fine-tune with AdamR-L2, then DARE with a tuned q"
        return Decision(steps=(retrain,), leaf=leaf, commands=commands)
    large = found.relative > LARGE and found.drop <= MODERATE
    size = Step(
        question="are the deltas large?", answer="yes" if large else "no",
        because=(
            f"mean |dW| is {found.relative:.2%} of mean |W| ({LARGE:.0%} is large) and p = {found.drop:.4g} "
            f"({MODERATE} is the most at which chosen entries win; both thresholds are ours, the paper gives none); "
            f"DARE is predicted to change a layer's output by {found.error_of_output:.2g} of it, "
            f"{found.error_of_delta:.2g} of the delta's own part (rms, medians of {found.layers} layers)"
        ),
    )  # fmt: skip
    if large:
        return Decision(steps=(retrain, size), leaf="importance: WANDA", commands=(
            f"{prune} --method wanda --calibration {texts}",
        ))  # fmt: skip
    known = Step(
        question="are there labelled texts?", answer="yes" if labels else "no",
        because="--labels was given: q is chosen by the metric" if labels
        else "--labels was not given: q is chosen by the output change on texts",
    )  # fmt: skip
    encoder = kind == "encoder"
    rule = ("labels" if labels else "output") + ("-layers" if encoder else "")
    shape = Step(
        question="encoder or decoder?", answer=kind,
        because="per-layer q is better on encoders" if encoder else "one global q is as good on decoders, and cheaper",
    )  # fmt: skip
    evidence = f"--labels {files.get('labels', 'LABELLED')}" if labels else f"--calibration {texts}"
    return Decision(steps=(retrain, size, known, shape), leaf=f"DAREx-q: DARE with q by {rule}", commands=(
        f"{prune} --divide-by {rule} {evidence}",
    ))  # fmt: skip
