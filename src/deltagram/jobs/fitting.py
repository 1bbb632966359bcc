"""What `prune` fits to a person's texts once a delta stands: its kept values, its divisors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.arrays import F32, F64
from deltagram.errors import SettingError
from deltagram.jobs.evidence import Evidence, calibration_batches
from deltagram.jobs.search import RULES, check_rule, narrowest, search
from deltagram.jobs.variant import Variant, variant
from deltagram.progress import Progress
from deltagram.store import scales
from deltagram.store.deltafile import open_delta
from deltagram.training import distil

REFIT_PASSES = 15  # over the calibration texts
REFIT_STEPS = 240


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Which divisors are searched for (`rule`, if it is one), whether kept values are refitted, and on what."""

    rule: float | str
    refit: bool
    evidence: Evidence
    device: str = "cpu"

    @property
    def searches(self) -> bool:
        """Whether the divisor is to be searched for."""
        return isinstance(self.rule, str) and self.rule in RULES

    @property
    def reads_texts(self) -> bool:
        """Whether calibration texts are of use."""
        return self.refit or (self.searches and not str(self.rule).startswith("labels"))

    def check(self) -> None:
        """Raise SettingError, before any work, where texts are missing."""
        if self.searches:
            check_rule(str(self.rule), self.evidence, tuned=True)
        if self.refit and self.evidence.calibration is None:
            raise SettingError("--refit", "needs texts", fix="give them with --calibration FILE")
        if self.refit:
            self.evidence.check_readable()


def fitted(
    folder: Path, base: Path, tuned: Path, fit: Fit, *, write: Callable[[Mapping[str, F32]], object], progress: Progress
) -> dict[str, Any]:
    """Fit the delta in `folder`; `write(values)` writes it anew with these kept values. Returns what was measured."""
    numbers: dict[str, Any] = {}
    chosen: Mapping[str, F64] | None = None
    if fit.refit:
        with variant(open_delta(folder), base, tuned=tuned, device=fit.device) as live:
            values, chosen, numbers["refit"] = _refit(live, fit.evidence, progress)
        write(values)
    if fit.searches:
        with variant(open_delta(folder), base, tuned=tuned, device=fit.device) as live:
            found = search(live, str(fit.rule), fit.evidence, progress=progress, start=chosen)
        chosen, numbers["search"] = found.divisors, found.numbers
    if chosen is not None:
        opened = open_delta(folder)
        data = scales.scales_bytes(chosen, opened.digest, row_dtype=narrowest(chosen))
        (folder / scales.NAME).write_bytes(data)
    return numbers


def _refit(
    live: Variant, evidence: Evidence, progress: Progress
) -> tuple[dict[str, F32], Mapping[str, F64], dict[str, Any]]:
    """Kept values fitted to the fine-tuned model's outputs, from the best single divisor, which stays."""
    made = calibration_batches(live.run, evidence, most=evidence.fitted)
    expected = distil.targets(live.run, made)
    begin = search(live, "output", evidence, progress=progress)
    trial, losses = live.trial(), []
    steps = max(REFIT_STEPS, REFIT_PASSES * len(made))
    for step, loss in distil.refit(live.run, trial, made, expected, divisors=begin.divisors, steps=steps):
        losses.append(loss)
        progress.advance("refitting values", step, steps)
    values = {name: np.asarray(trial.values(name).cpu(), np.float32) for name in trial.names}
    tail = losses[-max(1, len(losses) // 10) :]
    numbers = {
        "texts": sum(len(batch.samples) for batch in made), "steps": steps, "start": begin.numbers,
        "first_loss": losses[0], "loss": sum(tail) / len(tail),
    }  # fmt: skip
    return values, begin.divisors, numbers
