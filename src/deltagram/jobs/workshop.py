"""Deltas made in a scratch folder until they are just within a budget of bytes, all files included."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from deltagram.delta.plan import Plan
from deltagram.delta.stored import Pruned, Stored, Whole
from deltagram.errors import SettingError
from deltagram.jobs.calibration import Norms
from deltagram.jobs.candidates import LEAST, Candidate, plan_text
from deltagram.jobs.evidence import Evidence
from deltagram.jobs.planning import plan_for
from deltagram.jobs.prune import prune
from deltagram.progress import SILENT, Progress
from deltagram.store.adapter import open_tuned
from deltagram.store.checkpoint import open_checkpoint
from deltagram.store.deltafile import Delta, open_delta
from deltagram.store.tensors import WholeTensor

NAME_BYTES: Final = 512  # what the name of the final directory may add to its model card
_ENOUGH: Final = 0.985  # of the budget, where fitting stops
_TRIES: Final = 6


@dataclass(frozen=True, kw_only=True)
class Made:
    """A delta in the scratch folder: what it was made by, and its bytes, with room for another name."""

    candidate: Candidate
    delta: Delta
    nbytes: int

    @cached_property
    def stored(self) -> dict[str, Pruned]:
        """Its pruned tensors, decoded."""
        return {name: tensor for name, tensor in self._loaded.items() if isinstance(tensor, Pruned)}

    @cached_property
    def coded(self) -> dict[str, Whole]:
        """Tensors stored whole, but coded, decoded: they are not quite the fine-tuned ones."""
        entries = self.delta.manifest.tensors
        coded = {name for name, entry in entries.items() if isinstance(entry, WholeTensor) and entry.values is not None}
        return {n: tensor for n, tensor in self._loaded.items() if n in coded and isinstance(tensor, Whole)}

    @cached_property
    def _loaded(self) -> dict[str, Stored]:
        return self.delta.load()


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Base and fine-tuned checkpoint, where deltas of them are made, and what goes into each layer (if known)."""

    base: Path
    tuned: Path
    folder: Path
    seed: int
    norms: Norms | None = None
    device: str = "cpu"
    progress: Progress = SILENT

    @cached_property
    def plan(self) -> Plan:
        """How `prune` stores each tensor without a rule."""
        source = open_checkpoint(self.base)
        return plan_for(
            source, open_tuned(self.tuned, source), keep=None, budget=None, method="random",
            divide_by="dare", values=None, pack=True, columns=None, rules=None, whole=(), rename=(),
        )  # fmt: skip

    def make(
        self,
        candidate: Candidate,
        divisors: Mapping[str, float] | None = None,
        *,
        refit: Evidence | None = None,
    ) -> Made:
        """Prune by a candidate, as the command line would; with `refit` its values are fitted to those texts."""
        rules = self.folder / "plan.yaml"
        rules.write_text(plan_text(self.plan, candidate, divisors or {}), "utf-8")
        place = self.folder / ("delta" if refit is None else "refitted")
        record = prune(
            self.base, self.tuned, place, keep=candidate.keep, method=candidate.method, values=candidate.values,
            plan=rules, seed=self.seed, compact=True, force=True, **self._texts(candidate, refit),
        )  # fmt: skip
        return Made(candidate=candidate, delta=open_delta(place), nbytes=record.numbers["delta_bytes"] + NAME_BYTES)

    def _texts(self, candidate: Candidate, refit: Evidence | None) -> dict[str, Any]:
        if refit is None:
            return {"calibration": self.norms if candidate.weighed else None}
        return {
            "refit": True, "calibration": refit.calibration, "texts": refit.texts, "max_length": refit.max_length,
            "device": self.device, "progress": self.progress,
        }  # fmt: skip

    def floor(self, candidate: Candidate) -> int:
        """Bytes of its delta that keeps next to nothing."""
        return self.make(replace(candidate, keep=LEAST)).nbytes

    def fit(self, candidate: Candidate, budget: int, *, floor: int) -> Made | None:
        """The delta of the largest kept share (of those tried) within `budget`; None if there is none.

        Bytes above the floor are almost proportional to the kept share: a few tries of false position suffice.
        """
        if budget <= floor or (candidate.weighed and self.norms is None):
            return None
        best: Made | None = None
        keep, low, high = min(0.5, max(10 * LEAST, candidate.keep)), 0.0, 1.0
        for _ in range(_TRIES):
            made = self.make(replace(candidate, keep=keep))
            if made.nbytes <= budget:
                best, low = (made if best is None or keep > best.candidate.keep else best), max(low, keep)
                if made.nbytes >= _ENOUGH * budget or keep >= 1:
                    break
            else:
                high = min(high, keep)
            guess = keep * (0.995 * budget - floor) / max(1, made.nbytes - floor)
            keep = min(1.0, guess) if low < guess < high or guess >= 1 == high else (low + high) / 2
            if keep < LEAST:
                break
        return best


def below_floor(budget: int, floor: int) -> SettingError:
    """The error that names the floor."""
    return SettingError(
        "--budget", f"{budget:,} bytes is below the floor of {floor:,} bytes",
        fix="that much is taken by the manifest, by tensors the base lacks and by vectors; raise the budget",
    )  # fmt: skip
