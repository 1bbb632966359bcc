"""What claims are made of: shares of the gain over masks, and numbers over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deltagram.papers.bench import Bench, Variant
from deltagram.papers.cells import Cell, Outcome, Stored
from deltagram.papers.scoring import share
from deltagram.papers.stage import Sources, Stage, stage

Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a claim's check measured: the numbers that are judged, their spread, and a table of all cells."""

    got: Mapping[str, float]
    spread: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A stage between its ends: `floor` is the better of base under the tuned head and most common class."""

    stage: Stage
    masks: tuple[int, ...]
    floor: float
    top: float
    rows: list[dict[str, Any]]
    name: str

    @classmethod
    def between(cls, made: Stage, bench: Bench, variant: Variant) -> "Gain":
        """Its two ends, measured."""
        scorer = made.sources.scorer
        top, base, least = made.tuned().score, made.floor().score, scorer.least(variant.data.train)
        rows: list[dict[str, Any]] = [
            {"variant": variant.name, "method": name, "score": score}
            for name, score in (("fine-tuned", top), ("base, tuned head", base), ("most common class", least))
        ]
        return cls(stage=made, masks=bench.scale.masks, floor=max(base, least), top=top, rows=rows, name=variant.name)

    def outcomes(
        self, stored: Stored, divide_by: str | float = "dare", *, masks: Sequence[int] | None = None
    ) -> list[Outcome]:
        """A cell over masks (one for methods that choose entries); noted in `rows`."""
        seeds = self.masks if masks is None else masks
        if not stored.drawn:
            seeds = seeds[:1]
        found = [self.stage.measure(Cell(stored=replace(stored, seed=seed), divide_by=divide_by)) for seed in seeds]
        scores = [outcome.score for outcome in found]
        self.rows.append({
            "variant": self.name, **{k: v for k, v in stored.settings().items() if k != "seed"},
            "divide_by": divide_by, "masks": len(found), "score": float(np.mean(scores)),
            "spread": float(np.std(scores)), "share": float(np.mean([self.share_of(score) for score in scores])),
            "bytes": found[0].delta_bytes,
        })  # fmt: skip
        return found

    def score(self, stored: Stored, divide_by: str | float = "dare", *, masks: Sequence[int] | None = None) -> float:
        """Mean score over masks."""
        return float(np.mean([outcome.score for outcome in self.outcomes(stored, divide_by, masks=masks)]))

    def share(self, stored: Stored, divide_by: str | float = "dare", *, masks: Sequence[int] | None = None) -> float:
        """Mean share of the gain over masks."""
        return self.share_of(self.score(stored, divide_by, masks=masks))

    def share_of(self, score: float) -> float:
        """The share of the gain that a score stands for."""
        return share(score, floor=self.floor, top=self.top)


def on_variant(bench: Bench, variant: Variant, work: Callable[[Gain], Numbers]) -> tuple[Numbers, list[dict[str, Any]]]:
    """Numbers of one variant, and the rows of all its cells, its two ends first."""
    return with_ends(bench.sources(variant), bench, variant, work)


def with_ends(
    sources: Sources, bench: Bench, variant: Variant, work: Callable[[Gain], Numbers]
) -> tuple[Numbers, list[dict[str, Any]]]:
    """The same with another test or other evidence."""
    with stage(sources, bench.notes, progress=bench.progress) as made:
        gain = Gain.between(made, bench, variant)
        return work(gain), gain.rows


def over_seeds(bench: Bench, work: Callable[[int], tuple[Numbers, list[dict[str, Any]]]], **settings: Any) -> Checked:
    """`work(seed)` for each seed of fine-tuning: means and standard deviations of its numbers, all its rows."""
    return averaged(bench, work, task=bench.large.name, masks=list(bench.scale.masks), **settings)


def averaged(bench: Bench, work: Callable[[int], tuple[Numbers, list[dict[str, Any]]]], **settings: Any) -> Checked:
    """The same of anything that is drawn by a seed."""
    found = [work(seed) for seed in bench.scale.seeds]
    numbers = [numbers for numbers, _ in found]
    return Checked(
        got={name: float(np.mean([each[name] for each in numbers])) for name in numbers[0]},
        spread={name: float(np.std([each[name] for each in numbers])) for name in numbers[0]},
        settings={"seeds": list(bench.scale.seeds), **settings},
        rows=[row for _, rows in found for row in rows],
    )
