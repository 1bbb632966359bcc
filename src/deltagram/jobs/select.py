"""Which delta to store: the paper's decision, then candidates measured within a budget, then a guarantee."""

import math
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from deltagram.errors import SettingError
from deltagram.jobs.bench import Bench, bench
from deltagram.jobs.calibration import input_norms
from deltagram.jobs.candidates import TABLE, Candidate, plan_text
from deltagram.jobs.card import model_card
from deltagram.jobs.decision import decide, statistics
from deltagram.jobs.evidence import Evidence
from deltagram.jobs.tournament import Row, Tournament
from deltagram.jobs.workshop import Made, Workshop
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.adapter import open_tuned
from deltagram.store.checkpoint import open_checkpoint
from deltagram.store.staging import check_output, staged, staged_file

RATIOS: Final = (30, 100, 300)  # smaller than the model in bfloat16, without a budget or a bound
_LADDER: Final = (10, 30, 100, 300, 1000)  # where a bound on the loss is looked for
_AGREE: Final = 0.95  # of the choosing texts: what the recommendation of a sweep must reach
_FINALISTS: Final = 3  # candidates that are measured at further budgets


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
    recommended delta) and `plan_out` (the plan that
    makes it), if given. `numbers`: decision, table, recommended row with its command, plan and guarantee.

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
    opened = source, open_tuned(tuned, source)
    dense = 2 * sum(spec.size for spec in opened[1].specs.values())
    with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch:
        shop = Workshop(
            base=base, tuned=tuned, folder=Path(scratch), seed=seed, device=device, progress=progress
        )  # fmt: skip
        first = shop.make(TABLE[0])
        if not first.stored:
            raise SettingError(str(tuned), "has nothing that could be pruned: every tensor is the base's or whole")
        with bench(*opened, shop.plan, first.stored, evidence, device=device) as on:
            if calibration is not None:
                shop = replace(shop, norms=input_norms(opened[1], replace(evidence, texts=len(on.texts.scored))))
            games = Tournament(on, shop, progress=progress)
            rounds = _rounds(games, dense, budget=budget, max_loss=max_loss)
            chosen = _chosen(rounds, max_loss)
            made, told = _told(on, shop, chosen)
            fit = replace(evidence, texts=on.texts.leading) if refit else None
            if fit is not None:
                again, fitted = _told(on, shop, chosen, fit)
                if _better(fitted, told):
                    made, told = again, fitted | {"before_refit": told["score_again"]}
                else:
                    fit = None
            plain = next((row for row in rounds[-1] if row.candidate.plain), None)
            drop = 1 - (plain.candidate.keep if plain else 0.01)
            numbers_of = statistics(on, drop=drop)
            kind = on.run.kind
            unit = {"texts": len(on.texts.scored), "held_out": len(on.texts.held_out), "unit": on.expected.unit}
        plan = plan_text(shop.plan, chosen.candidate, chosen.divisors)
        if out is not None:
            told["delta_bytes"] = _write(made, Path(out), force=force, inputs=(base, tuned))
    if plan_out is not None:
        with staged_file(Path(plan_out), force=force) as place:
            place.write_text(plan, "utf-8")
    given = {"calibration": calibration, "labels": labels}
    files = {name: shlex.quote(str(file)) for name, file in given.items() if file is not None}
    decision = decide(
        numbers_of, may_retrain=may_retrain, labels=labels is not None, kind=kind, base=shlex.quote(str(base)),
        tuned=shlex.quote(str(tuned)), files=files,
    )  # fmt: skip
    looked = fit or replace(evidence, texts=len(on.texts.scored))
    command = _command(
        shop, chosen.candidate, looked, refit=fit is not None, plan=plan_out or "plan.yaml", out=out or "DELTA"
    )
    numbers: dict[str, Any] = {
        **meter.numbers(), **unit, "dense_bytes": dense, "floor_bytes": games.least,
        "decision": decision.numbers(),
        "statistics": asdict(numbers_of),
        "score": on.score_name,
        "table": [row.numbers(dense) for rows in rounds for row in rows],
        "recommended": {**chosen.numbers(dense), **told, "command": command, "plan": plan},
    }  # fmt: skip
    settings = {
        "base": str(base), "tuned": str(tuned), "budget": budget, "max_loss": max_loss, "may_retrain": may_retrain,
        "refit": refit,
        "calibration": str(calibration or ""), "labels": str(labels or ""), "metric": metric, "texts": texts,
        "max_length": max_length, "out": str(out or ""), "plan_out": str(plan_out or ""),
    }  # fmt: skip
    return Record(job="select", settings=settings, seed=seed, numbers=numbers)


def _command(
    shop: Workshop, chosen: Candidate, looked: Evidence, *, refit: bool, plan: Path | str, out: Path | str
) -> str:
    """What makes the recommended delta; `looked` are the texts it looks at, if any."""
    texts = ["--calibration", looked.calibration, "--texts", looked.texts, "--max-length", looked.max_length]
    words = [
        "deltagram", "prune", shop.base, shop.tuned, out, "--method", chosen.method, "--values", chosen.values,
        "--keep", repr(chosen.keep), "--plan", plan, *(("--seed", shop.seed) if shop.seed else ()),
        *(("--refit",) if refit else ()), *(texts if refit or chosen.weighed else ()),
    ]  # fmt: skip
    return shlex.join(str(word) for word in words)


def _better(fitted: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether fitted values are kept."""
    return bool(fitted["score_again"] <= before["score_again"])


def _write(made: Made, out: Path, *, force: bool, inputs: Sequence[Path]) -> int:
    """Copy the recommended delta to its place, under its name; returns its bytes."""
    with staged(out, force=force, inputs=inputs) as folder:
        shutil.copytree(made.delta.path, folder, dirs_exist_ok=True)
        (folder / "README.md").write_text(model_card(made.delta.manifest, name=out.name), "utf-8", "replace")
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _check(budget: int | None, max_loss: float | None, seed: int) -> None:
    if budget is not None and max_loss is not None:
        raise SettingError("--budget and --max-loss", "contradict each other", fix="give one of them")
    if budget is not None and budget < 1:
        raise SettingError("--budget", f"is {budget}", expected="a positive number of bytes")
    if max_loss is not None and not (math.isfinite(max_loss) and max_loss > 0):
        raise SettingError("--max-loss", f"is {max_loss}", expected="a positive number")
    if not -(1 << 63) <= seed < 1 << 63:
        raise SettingError("--seed", f"{seed} is too large", expected="a signed 64-bit integer")


def _rounds(games: Tournament, dense: int, *, budget: int | None, max_loss: float | None) -> list[list[Row]]:
    """Rows by budget, each the best first. With a bound: smaller and smaller budgets until it is not kept, then one
    between the last two."""
    if budget is not None:
        return [games.at(budget)]
    rounds: list[list[Row]] = []
    table: Sequence[Candidate] = TABLE
    sizes = [dense // ratio for ratio in (RATIOS if max_loss is None else _LADDER)]
    sizes = [size for size in sizes if size > games.least] or sizes[:1]
    for size in sizes:
        rounds.append(games.at(size, table=table))
        table = _narrowed(rounds[-1])
        if max_loss is not None and rounds[-1][0].score.loss > max_loss:
            break
    if max_loss is None:
        return rounds
    if rounds[0][0].score.loss > max_loss:
        raise SettingError(
            "--max-loss", f"{max_loss} is not reached: at {sizes[0]:,} bytes the loss is {rounds[0][0].score.loss:.4g}",
            fix="allow a larger loss, or prune with a larger --keep",
        )  # fmt: skip
    if rounds[-1][0].score.loss > max_loss:
        middle = math.isqrt(sizes[len(rounds) - 2] * sizes[len(rounds) - 1])
        rounds.append(games.at(middle, table=table))
    return rounds


def _narrowed(rows: Sequence[Row]) -> tuple[Candidate, ...]:
    """Plain DARE, and the masks and codecs that did best: what a further budget measures."""
    kinds = list(dict.fromkeys((row.candidate.method, row.candidate.values) for row in rows))
    best = [Candidate(method=m, values=v) for m, v in kinds if (m, v) != ("random", "bf16")][:_FINALISTS]
    return TABLE[0], *best


def _chosen(rounds: Sequence[Sequence[Row]], max_loss: float | None) -> Row:
    """The least bytes that keep to the bound or, without one, that agree on enough of the choosing texts."""
    best = sorted((rows[0] for rows in rounds), key=lambda row: row.nbytes)
    if max_loss is not None:
        return next(row for row in best if row.score.loss <= max_loss)
    return next((row for row in best if (row.score.agreement or 0) >= _AGREE), best[-1])


def _told(on: Bench, shop: Workshop, chosen: Row, refit: Evidence | None = None) -> tuple[Made, dict[str, Any]]:
    """The recommended delta made again from its plan and measured again: its guarantee, and the score it has."""
    made = shop.make(chosen.candidate, chosen.divisors, refit=refit)
    divisors = {name: float(tensor.divide_by) for name, tensor in made.stored.items()}
    on.put(made.stored, made.coded).set(divisors)
    again = on.score()
    found = on.guarantee(made.stored, made.coded, divisors)
    return made, {
        "score_again": again.loss, "agreement_again": again.agreement, "refit": refit is not None,
        "guarantee": None if found is None else asdict(found),
    }  # fmt: skip
