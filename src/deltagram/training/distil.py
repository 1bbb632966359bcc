"""Scales fitted by gradient, so that the pruned model says what the fine-tuned one says; texts need no labels."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.seeds import key, words
from deltagram.training.huggingface import libraries
from deltagram.training.loaded import Batch, Loaded
from deltagram.training.trial import Divisors, Trial


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the fine-tuned model gives for one batch: hidden states `token feature`, logits if it has a head."""

    hidden: Any
    logits: Any


def targets(run: Loaded, batches: Sequence[Batch]) -> list[Target]:
    """Run the fine-tuned model once: what `distil` fits to."""
    with libraries() as (torch, _), torch.inference_mode():
        found = [_outputs(torch, run, batch, {}) for batch in batches]
    return [
        Target(hidden=hidden.clone(), logits=None if logits is None else logits.clone()) for hidden, logits in found
    ]


def distil(
    run: Loaded,
    trial: Trial,
    batches: Sequence[Batch],
    expected: Sequence[Target],
    *,
    start: Divisors,
    steps: int,
    by_row: frozenset[str] = frozenset(),
    learning_rate: float = 0.05,
) -> Iterator[tuple[int, float, dict[str, F64]]]:
    """Fit one factor a tensor (one a row for those in `by_row`) to `expected`, from the divisors `start`.

    Each step takes the next batch and an Adam step on log-factors, under a learning rate that falls to zero along a
    half cosine. The loss is the squared error of the last hidden states over their mean square, plus, where the model
    has a head, the Kullback-Leibler divergence of its predictions from the fine-tuned model's. Yields the step, its
    loss and the divisors after it; the model is left as it was. Raises SettingError where the loss is not finite.

    One trained scale a matrix: Liu et al., BitDelta (arXiv 2402.10193), there for signs; here for any kept values.
    """
    with libraries() as (torch, _):
        names = trial.names
        shapes = {name: (trial.rows(name),) if name in by_row else () for name in names}
        device = {name: trial.values(name).device for name in names}
        logs = {name: torch.zeros(shapes[name], requires_grad=True, device=device[name]) for name in names}
        begin = {name: torch.from_numpy(np.asarray(start[name], np.float32)).to(device[name]) for name in names}
        optimizer = torch.optim.Adam(logs.values(), lr=learning_rate, foreach=True)
        for step, (batch, target) in enumerate(_turns(batches, expected, steps=steps)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _slope(step, steps)
            weights = trial.weights({name: begin[name] / logs[name].exp() for name in names})
            loss = _descend(optimizer, _loss(torch, *_outputs(torch, run, batch, weights), target))
            with torch.no_grad():
                now = {n: np.asarray((begin[n] / logs[n].exp()).cpu(), np.float64) for n in names}
            yield step + 1, loss, now


def refit(
    run: Loaded,
    trial: Trial,
    batches: Sequence[Batch],
    expected: Sequence[Target],
    *,
    divisors: Divisors,
    steps: int,
    learning_rate: float = 0.1,
) -> Iterator[tuple[int, float]]:
    """Fit the kept values themselves to `expected`, their divisors fixed; positions stay, so no byte is added.

    Adam, a rate of `learning_rate` times the root mean square of a tensor's values, falling to zero along a half
    cosine; the loss is that of `distil`. Yields each step and its loss; in the end `trial` holds the fitted values.
    Raises SettingError where the loss is not finite.

    Not of DAREx: distillation (Hinton et al., arXiv 1503.02531) into a sparse delta, whose positions are given.
    """
    with libraries() as (torch, _):
        fitted = {name: trial.values(name).clone().requires_grad_() for name in trial.names}
        factor = {n: torch.from_numpy(np.asarray(divisors[n], np.float32)).to(v.device) for n, v in fitted.items()}
        rates = {name: learning_rate * float(v.detach().square().mean().sqrt()) for name, v in fitted.items()}
        optimizer = torch.optim.Adam([{"params": [fitted[name]], "lr": rates[name]} for name in fitted])
        for step, (batch, target) in enumerate(_turns(batches, expected, steps=steps)):
            for group, rate in zip(optimizer.param_groups, rates.values(), strict=True):
                group["lr"] = rate * _slope(step, steps)
            told = _outputs(torch, run, batch, trial.weights(factor, fitted))
            yield step + 1, _descend(optimizer, _loss(torch, *told, target))
        trial.replace_values({name: value.detach() for name, value in fitted.items()})
        trial.set(divisors)


def _descend(optimizer: Any, loss: Any) -> float:
    """One step against the gradient of a loss; the loss. Raises SettingError unless it is finite."""
    found = float(loss.item())
    if not math.isfinite(found):
        raise SettingError("the texts", f"lead to a loss of {found}", fix="check model and texts")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return found


def _turns(batches: Sequence[Batch], expected: Sequence[Target], *, steps: int) -> Iterator[tuple[Batch, Target]]:
    """Batches and their targets, all of them once a pass, each pass in another order."""
    for step in range(steps):
        turn, place = divmod(step, len(batches))
        order = np.argsort(words(key(0, f"distil/{turn}"), 0, len(batches)), kind="stable")
        yield batches[order[place]], expected[order[place]]


def _slope(step: int, steps: int) -> float:
    """A half cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def _outputs(torch: Any, run: Loaded, batch: Batch, weights: Mapping[str, Any]) -> tuple[Any, Any]:
    """Hidden states of the real tokens, and logits (of the real tokens for a language model; None without a head)."""
    real = batch.mask.bool()
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask, "output_hidden_states": True}
    told = torch.func.functional_call(run.model, dict(weights), args=(), kwargs=inputs)
    hidden = told.hidden_states[-1][real]
    logits = getattr(told, "logits", None)
    if logits is not None and run.kind == "decoder":
        logits = logits[real]
    return hidden, logits


def _loss(torch: Any, hidden: Any, logits: Any, target: Target) -> Any:
    change = (hidden - target.hidden).square().mean() / target.hidden.square().mean()
    if logits is None or logits.shape[-1] < 2:
        return change
    log = torch.nn.functional.log_softmax
    divergence = torch.nn.functional.kl_div(
        log(logits.float(), -1), log(target.logits.float(), -1), reduction="batchmean", log_target=True
    )
    return change + divergence


def chosen_by_row(rows: Mapping[str, int], kept: Mapping[str, int], *, least: int = 4) -> frozenset[str]:
    """Tensors whose rows keep at least `least` values each: where one more scale a row can pay."""
    return frozenset(name for name in rows if kept[name] >= least * rows[name])
