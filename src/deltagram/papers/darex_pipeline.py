"""DAREx: the selection pipeline, leaf by leaf, against the best that is measured (D11)."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from deltagram.jobs.bench import bench as on_texts
from deltagram.jobs.candidates import TABLE
from deltagram.jobs.decision import Statistics, decide, statistics
from deltagram.jobs.once import digest
from deltagram.jobs.workshop import Workshop
from deltagram.papers.bench import Bench, Variant
from deltagram.papers.cells import Stored
from deltagram.papers.claims import Claim
from deltagram.papers.darex_dropping import keep
from deltagram.papers.darex_training import adamr
from deltagram.papers.measured import Checked, Gain, Numbers, on_variant, over_seeds
from deltagram.store.checkpoint import open_checkpoint

Both = tuple[Numbers, list[dict[str, Any]]]
Way = tuple[str, str]  # method of the mask, rule of the divisor

_RETRAIN: Final = "DAREx-L2-q"
_IMPORTANCE: Final = "importance: WANDA"
_WITHOUT_LABELS: Final[tuple[Way, ...]] = (
    ("bernoulli", "dare"), ("bernoulli", "output"), ("bernoulli", "output-layers"), ("magnitude", "dare"),
    ("wanda", "dare"),
)  # fmt: skip
_WITH_LABELS: Final = (*_WITHOUT_LABELS, ("bernoulli", "labels"), ("bernoulli", "labels-layers"))


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a person has, where the pipeline should lead, and the drop rate."""

    name: str
    variant: Variant
    drop: float
    labels: bool
    may_retrain: bool = False


def pipeline(bench: Bench, claim: Claim) -> Checked:
    """D11: the pipeline in four situations; regret is the best measured share minus that of the leaf's method."""
    settings = claim.settings

    def work(seed: int) -> Both:
        large = bench.tuned(bench.large, seed=seed)
        small = bench.tuned(replace(bench.large, learning_rate=settings["small_rate"]), seed=seed)
        pulled = adamr(bench, bench.large, seed=seed, strength=settings["strength"])
        situations = (
            Situation(name="retrain", variant=large, drop=settings["drop"], labels=True, may_retrain=True),
            Situation(name="large", variant=large, drop=settings["moderate"], labels=False),
            Situation(name="small, labels", variant=small, drop=settings["drop"], labels=True),
            Situation(name="small, texts", variant=small, drop=settings["drop"], labels=False),
        )
        found, rows = [], []
        for situation in situations:
            numbers, more = _situation(bench, situation, pulled)
            found.append(numbers)
            rows += [{"situation": situation.name, **row} for row in more]
        return {
            "leaves_reached": float(len({row["leaf"] for row in rows if "leaf" in row})),
            "largest_regret": max(numbers["regret"] for numbers in found),
            "control_spread": max(numbers["spread"] for numbers in found),
        }, rows

    return over_seeds(bench, work)


def _situation(bench: Bench, situation: Situation, pulled: Variant) -> Both:
    """Regret and spread of the candidates, and rows, the last of which tells the leaf."""
    leaf = _leaf(bench, situation)
    share = keep(situation.drop)

    def numbers(gain: Gain) -> Numbers:
        candidates = {
            way: gain.share(Stored(method=way[0], keep=share), way[1])
            for way in (_WITH_LABELS if situation.labels else _WITHOUT_LABELS)
        }
        if situation.may_retrain:
            after, rows = on_variant(bench, pulled, lambda to: _after(to, share))
            gain.rows.extend(rows)
            candidates |= {("adamr", rule): gain.share_of(after[rule]) for rule in after}
        best, chosen = max(candidates.values()), candidates[_way(leaf)]
        gain.rows.append({"leaf": leaf, "share": chosen, "best": best})
        return {"regret": best - chosen, "spread": best - min(candidates.values())}

    return on_variant(bench, situation.variant, numbers)


def _after(gain: Gain, share: float) -> Numbers:
    """Scores after AdamR; shares are of the gain of the plain fine-tune."""
    return {rule: gain.score(Stored(keep=share), rule) for rule in ("dare", "labels")}


def _way(leaf: str) -> Way:
    """The candidate that a leaf's words stand for."""
    if leaf.startswith(_RETRAIN):
        return "adamr", "labels"
    return ("wanda", "dare") if leaf == _IMPORTANCE else ("bernoulli", leaf.rsplit(" ", 1)[1])


def _leaf(bench: Bench, situation: Situation) -> str:
    """Where the pipeline leads, from statistics of the variant."""
    variant = situation.variant
    evidence, told = bench.evidence(variant)

    def measure() -> Mapping[str, Any]:
        with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch:
            shop = Workshop(base=variant.base, tuned=variant.folder, folder=Path(scratch), seed=0)
            opened = open_checkpoint(variant.base), open_checkpoint(variant.folder)
            with on_texts(*opened, shop.plan, shop.make(TABLE[0]).stored, evidence) as on:
                return asdict(statistics(on, drop=situation.drop))

    made_from = {"statistics": digest(variant.folder), "evidence": told, "drop": situation.drop}
    found = Statistics(**bench.notes.once(made_from, measure))
    return decide(
        found, may_retrain=situation.may_retrain, labels=situation.labels, kind="encoder", base=str(variant.base),
        tuned=str(variant.folder), files={},
    ).leaf  # fmt: skip
