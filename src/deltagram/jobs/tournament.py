"""Candidates of one size in bytes, all measured on the fine-tuned model; the best are refined."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from deltagram.delta.allocation import kept_shares
from deltagram.jobs.bench import Bench, Score, ranked
from deltagram.jobs.candidates import TABLE, Candidate
from deltagram.jobs.divisors import default_of, distilled, family, fine, quick
from deltagram.jobs.groups import VECTORS, grouped
from deltagram.jobs.workshop import Made, Workshop, below_floor
from deltagram.progress import SILENT, Progress
from deltagram.store.tensors import PrunedTensor

Divisors = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A candidate as it was measured: bytes of its directory, the rule its divisors came from, and its score."""

    candidate: Candidate
    nbytes: int
    rule: str
    divisors: Divisors = field(repr=False)
    score: Score

    @property
    def plain(self) -> bool:
        """Whether this is DARE."""
        return self.candidate.plain and self.rule == "dare"

    def numbers(self, dense: int) -> dict[str, Any]:
        """As plain data; `dense` are the bytes of the model in bfloat16."""
        return {
            "bytes": self.nbytes, "ratio": round(dense / self.nbytes, 1), "mask": self.candidate.method,
            "values": self.candidate.values, "keep": self.candidate.keep, "vectors": self.candidate.vectors,
            "by_layer": bool(self.candidate.share), "rule": self.rule, "loss": self.score.loss,
            "change": self.score.change, "noise": self.score.noise, "metric": self.score.metric,
            "agreement": self.score.agreement,
        }  # fmt: skip


class Tournament:
    """Candidates at any budget; floors and the damage that pruning does to each group are measured once."""

    def __init__(
        self, bench: Bench, workshop: Workshop, *, most_lost: float = math.inf, progress: Progress = SILENT
    ) -> None:
        self._bench, self._workshop, self._most_lost, self._progress = bench, workshop, most_lost, progress
        self._floors: dict[str, int] = {}
        self._harm: dict[str, float] = {}

    def floor(self, candidate: Candidate) -> int:
        """Bytes that a delta with such vectors takes whatever it keeps."""
        if candidate.vectors not in self._floors:
            self._floors[candidate.vectors] = self._workshop.floor(Candidate(
                method="random", values="4bit", vectors=candidate.vectors
            ))  # fmt: skip
        return self._floors[candidate.vectors]

    @property
    def least(self) -> int:
        """The floor of the smallest candidates."""
        return min(self.floor(replace(TABLE[0], vectors=vectors)) for vectors in ("4bit", "8bit"))

    def at(self, budget: int, *, table: Sequence[Candidate] = TABLE) -> list[Row]:
        """Everything measured within `budget` bytes, the best first. Raises SettingError for one below the floor.

        Masks and codecs first, each with one quickly found constant; then what the best one stores of vectors and of
        each layer is varied; then its divisors are found finely, and fitted by gradient. Plain DARE is among them: of
        equals it comes first.
        """
        rows = [row for step, candidate in enumerate(table, 1) for row in self._try(candidate, budget, step, table)]
        if not rows:
            raise below_floor(budget, self.least)
        for vary in (self._other_vectors, self._by_layer):
            rows += self._measure(self._fit(vary(self._ranked(rows)[0].candidate), budget), refine=False)
        rows += self._measure(self._fit(self._ranked(rows)[0].candidate, budget), refine=True)
        return _best_of_each(self._ranked(rows))

    def _ranked(self, rows: Sequence[Row]) -> list[Row]:
        """The best first; none that loses more than plain DARE, or than may be lost, before one that does not."""
        rows = sorted(rows, key=lambda row: not row.plain)
        bound = min([self._most_lost, *(row.score.loss for row in rows if row.plain)])
        return [rows[place] for place in ranked([row.score for row in rows], at_most=bound)]

    def _try(self, candidate: Candidate, budget: int, step: int, table: Sequence[Candidate]) -> Iterator[Row]:
        self._progress.advance(f"candidates of {budget:,} bytes", step, len(table))
        yield from self._measure(self._fit(candidate, budget), refine=False)
        if candidate.plain and candidate.vectors != "whole":
            yield from self._measure(self._fit(replace(candidate, vectors="whole"), budget), refine=False)

    def _fit(self, candidate: Candidate, budget: int) -> Made | None:
        floor = self.floor(candidate)
        smaller = replace(candidate, vectors="4bit")
        if candidate.vectors == "8bit" and budget <= 1.1 * floor:
            candidate, floor = smaller, self.floor(smaller)
        return self._workshop.fit(candidate, budget, floor=floor)

    def _measure(self, made: Made | None, *, refine: bool) -> Iterator[Row]:
        """Rows of one delta: with DARE's divisors if it is plain, with a constant, and if refined with two more."""
        if made is None:
            return
        tensors = {name: t for name, t in made.delta.manifest.tensors.items() if isinstance(t, PrunedTensor)}
        divide, trial = family(tensors), self._bench.put(made.stored, made.coded)
        if made.candidate.plain and not refine:
            default = default_of(made.stored, tensors)
            trial.set(default)
            yield self._row(made, "dare", default)
        ratio, _ = quick(self._bench, trial, divide)
        if not refine:
            if ratio > 1 or not made.candidate.plain:
                rule = "output" if ratio > 1 else "dare" if made.candidate.method == "random" else "1"
                yield self._row(made, rule, divide(ratio))
            return
        ratio = fine(self._bench, trial, divide, near=ratio)
        yield self._row(made, "output", divide(ratio))
        fitted = distilled(self._bench, trial, divide(ratio), progress=self._progress)
        yield self._row(made, "distil", fitted)

    def _row(self, made: Made, rule: str, divisors: Divisors) -> Row:
        score = self._bench.score()
        return Row(candidate=made.candidate, nbytes=made.nbytes, rule=rule, divisors=divisors, score=score)

    @staticmethod
    def _other_vectors(best: Candidate) -> Candidate:
        return replace(best, vectors="4bit" if best.vectors == "8bit" else "8bit")

    def _by_layer(self, best: Candidate) -> Candidate:
        """The same with its budget shared out among groups (as it is where there is one group)."""
        return replace(best, share=self._shares(best))

    def _shares(self, best: Candidate) -> dict[str, float]:
        """Factors on the kept share by group, from the damage each does alone; none where there is one group."""
        made = self._workshop.make(best)
        groups = grouped(entry for entry in self._workshop.plan.entries if entry.name in made.stored)
        groups.pop(VECTORS, None)
        if len(groups) < 2:
            return {}
        if not self._harm:
            self._harm = self._damage(groups)
        cost = [sum(made.delta.stored_bytes(name) for name in names) / best.keep for names in groups.values()]
        kept = kept_shares([self._harm[g] for g in groups], cost, budget=best.keep * sum(cost))
        return {group: float(share / best.keep) for group, share in zip(groups, kept, strict=True)}

    def _damage(self, groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """For each group alone: the squared output change under DARE, over the variance (1 - k) / k of its mask."""
        made = self._workshop.make(replace(TABLE[0], keep=_PROBED))
        found = {}
        for step, (group, names) in enumerate(groups.items(), 1):
            stored = {name: made.stored[name] for name in names if name in made.stored}
            trial = self._bench.put(stored)
            trial.set({name: float(tensor.divide_by) for name, tensor in stored.items()})
            found[group] = self._bench.change() ** 2 * _PROBED / (1 - _PROBED)
            self._progress.advance("sensitivity of layers", step, len(groups))
        return found


_PROBED = 0.05


def _best_of_each(rows: Sequence[Row]) -> list[Row]:
    """Of rows that differ only in their divisors' values the first alone."""
    found: dict[tuple[object, ...], Row] = {}
    for row in rows:
        found.setdefault((*_frozen(row.candidate), row.rule), row)
    return list(found.values())


def _frozen(candidate: Candidate) -> tuple[object, ...]:
    return candidate.method, candidate.values, candidate.keep, candidate.vectors, tuple(candidate.share.items())
