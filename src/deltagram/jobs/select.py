"""Which delta to store: the paper's decision, then candidates measured within a budget, then a guarantee."""

import math
import shlex
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from deltagram.errors import SettingError
from deltagram.jobs.bench import bench
from deltagram.jobs.budgets import recommended, rounds
from deltagram.jobs.calibration import norms_on
from deltagram.jobs.candidates import TABLE
from deltagram.jobs.decision import decide, statistics
from deltagram.jobs.evidence import Evidence
from deltagram.jobs.recommendation import Recommendation, recommend
from deltagram.jobs.tournament import Tournament
from deltagram.jobs.workshop import Workshop
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.adapter import Tuned, open_tuned
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.staging import check_output, staged_file

_USUAL: Final = 0.01  # the kept share that statistics are about where plain DARE fits no budget


def select(
    base: Path | str,
    tuned: Path | str,
    *,
    calibration: Path | str | None = None,
    labels: Path | str | None = None,
    metric: str | None = None,
    budget: int | None = None,
    max_loss: float | None = None,
    may_retrain: bool = False,
    refit: bool = False,
    texts: int | None = None,
    max_length: int = 128,
    out: Path | str | None = None,
    plan_out: Path | str | None = None,
    force: bool = False,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Record:
    """Recommend a delta within `budget` bytes (or of a loss of at most `max_loss`), with reasons and a guarantee.

    Masks, kept shares, codecs and divisors are measured on `calibration` texts or, by `metric`, on `labels`; the
    second half of the texts is held out for the guarantee. Without a budget and a bound, 1/30, 1/100 and 1/300 of the
    model in bfloat16 are tried. With `refit` the values of the best candidate are then fitted to the calibration texts
    before those that compare (`prune --refit`), and kept so if that measures better. Nothing is written but `out` (the
    recommended delta) and `plan_out` (the plan that makes it), if given. `numbers`: decision, table, recommended row
    with its command, plan and guarantee.

    Raises SettingError for settings, texts and budgets that cannot be, CheckpointError, PlanError, OutputError.
    """
    meter = Meter.start()
    base, tuned = Path(base), Path(tuned)
    _check(budget, max_loss, seed)
    if refit and calibration is None:
        raise SettingError("--refit", "needs texts", fix="give them with --calibration FILE")
    evidence = Evidence(calibration=calibration, labels=labels, metric=metric, texts=texts, max_length=max_length)
    for place, lone in ((out, False), (plan_out, True)):
        if place is not None:
            check_output(Path(place), force=force, inputs=(base, tuned), lone=lone)
    source = open_checkpoint(base)
    with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch:
        shop = Workshop(base=base, tuned=tuned, folder=Path(scratch), seed=seed, device=device, progress=progress)
        found = _found(
            (source, open_tuned(tuned, source)), shop, evidence, budget=budget, max_loss=max_loss, refit=refit,
            may_retrain=may_retrain, out=out, plan_out=plan_out,
        )  # fmt: skip
        if out is not None:
            written = found.chosen.write(Path(out), force=force, inputs=(base, tuned))
            found.numbers["recommended"]["delta_bytes"] = written
    if plan_out is not None:
        with staged_file(Path(plan_out), force=force) as place:
            place.write_text(found.numbers["recommended"]["plan"], "utf-8")
    settings = {
        "base": str(base), "tuned": str(tuned), "budget": budget, "max_loss": max_loss, "may_retrain": may_retrain,
        "refit": refit, "calibration": str(calibration or ""), "labels": str(labels or ""), "metric": metric,
        "texts": texts, "max_length": max_length, "out": str(out or ""), "plan_out": str(plan_out or ""),
    }  # fmt: skip
    return Record(job="select", settings=settings, seed=seed, numbers={**meter.numbers(), **found.numbers})


@dataclass(frozen=True, kw_only=True)
class _Found:
    chosen: Recommendation
    numbers: dict[str, Any]


def _found(
    opened: tuple[Checkpoint, Tuned], shop: Workshop, evidence: Evidence, *, budget: int | None,
    max_loss: float | None, refit: bool, may_retrain: bool, out: Path | str | None, plan_out: Path | str | None,
) -> _Found:  # fmt: skip
    """Everything measured, on a model that is loaded once."""
    dense = 2 * sum(spec.size for spec in opened[1].specs.values())
    first = shop.make(TABLE[0])
    if not first.stored:
        raise SettingError(str(shop.tuned), "has nothing that could be pruned: every tensor is the base's or whole")
    with bench(*opened, shop.plan, first.stored, evidence, device=shop.device) as on:
        looked = replace(evidence, texts=len(on.texts.scored))
        if evidence.calibration is not None:
            shop = replace(shop, norms=norms_on(on.run, looked))
        games = Tournament(on, shop, most_lost=math.inf if max_loss is None else max_loss, progress=shop.progress)
        by_budget = rounds(games, dense, budget=budget, max_loss=max_loss)
        chosen = recommend(on, shop, recommended(by_budget, max_loss), refit=evidence if refit else None)
        plain = next((row for row in by_budget[-1] if row.candidate.plain), None)
        measured = statistics(on, drop=1 - (plain.candidate.keep if plain else _USUAL))
        decision = decide(
            measured, may_retrain=may_retrain, labels=evidence.labels is not None, kind=on.run.kind,
            base=shlex.quote(str(shop.base)), tuned=shlex.quote(str(shop.tuned)), files=_files(evidence),
        )  # fmt: skip
        numbers = {
            "texts": len(on.texts.scored), "held_out": len(on.texts.held_out), "unit": on.expected.unit,
            "dense_bytes": dense, "floor_bytes": games.least, "decision": decision.numbers(),
            "statistics": asdict(measured), "score": on.score_name,
            "table": [row.numbers(dense) for rows in by_budget for row in rows],
            "recommended": {
                **chosen.row.numbers(dense), **chosen.told, "plan": chosen.plan(shop),
                "command": chosen.command(shop, looked, plan=plan_out or "plan.yaml", out=out or "DELTA"),
            },
        }  # fmt: skip
    return _Found(chosen=chosen, numbers=numbers)


def _files(evidence: Evidence) -> dict[str, str]:
    """The texts that were given, as they are typed."""
    given = {"calibration": evidence.calibration, "labels": evidence.labels}
    return {name: shlex.quote(str(file)) for name, file in given.items() if file is not None}


def _check(budget: int | None, max_loss: float | None, seed: int) -> None:
    if budget is not None and max_loss is not None:
        raise SettingError("--budget and --max-loss", "contradict each other", fix="give one of them")
    if budget is not None and budget < 1:
        raise SettingError("--budget", f"is {budget}", expected="a positive number of bytes")
    if max_loss is not None and not (math.isfinite(max_loss) and max_loss > 0):
        raise SettingError("--max-loss", f"is {max_loss}", expected="a positive number")
    if not -(1 << 63) <= seed < 1 << 63:
        raise SettingError("--seed", f"{seed} is too large", expected="a signed 64-bit integer")
