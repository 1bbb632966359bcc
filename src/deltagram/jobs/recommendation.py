"""The delta that a selection recommends: made again from its plan, measured again, and the command that makes it."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deltagram.jobs.bench import Bench, Score, ranked
from deltagram.jobs.candidates import plan_text
from deltagram.jobs.card import model_card
from deltagram.jobs.evidence import Evidence
from deltagram.jobs.tournament import Row
from deltagram.jobs.workshop import Made, Workshop
from deltagram.store.staging import staged


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A winning row and its delta in the scratch folder, its `score` measured again.

    `fit` are the texts that its values were fitted to, if any.
    """

    row: Row
    made: Made
    score: Score
    told: Mapping[str, Any]
    fit: Evidence | None

    def plan(self, shop: Workshop) -> str:
        """The YAML plan that makes it."""
        return plan_text(shop.plan, self.row.candidate, self.row.divisors)

    def command(self, shop: Workshop, looked: Evidence, *, plan: Path | str, out: Path | str) -> str:
        """The command line that makes it; `looked` are the texts that weigh entries, where that is its method."""
        chosen, seen = self.row.candidate, self.fit or looked
        texts = ["--calibration", seen.calibration, "--texts", seen.texts, "--max-length", seen.max_length]
        words = [
            "deltagram", "prune", shop.base, shop.tuned, out, "--method", chosen.method, "--values", chosen.values,
            "--keep", repr(chosen.keep), "--compact", "--plan", plan, *(("--seed", shop.seed) if shop.seed else ()),
            *(("--refit",) if self.fit else ()), *(texts if self.fit or chosen.weighed else ()),
        ]  # fmt: skip
        return shlex.join(str(word) for word in words)

    def write(self, out: Path, *, force: bool, inputs: Sequence[Path]) -> int:
        """Copy the delta to its place, under its name; returns its bytes."""
        with staged(out, force=force, inputs=inputs) as folder:
            shutil.copytree(self.made.delta.path, folder, dirs_exist_ok=True)
            (folder / "README.md").write_text(model_card(self.made.delta.manifest, name=out.name), "utf-8", "replace")
            return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def recommend(on: Bench, shop: Workshop, row: Row, *, refit: Evidence | None) -> Recommendation:
    """The row's delta; with `refit`, with values fitted to the texts before those that compare, if that is no worse.

    It is made in a folder of its own, which no delta that is tried later takes.
    """
    shop = replace(shop, folder=shop.folder / "recommended")
    shop.folder.mkdir(exist_ok=True)
    plain = _made(on, shop, row, None)
    if refit is None:
        return plain
    fitted = _made(on, shop, row, replace(refit, texts=on.texts.leading))
    if not _better(fitted.score, plain.score):
        return plain
    return replace(fitted, told={**fitted.told, "before_refit": plain.score.loss})


def _better(fitted: Score, before: Score) -> bool:
    """Whether fitted values are kept."""
    return ranked([fitted, before])[0] == 0


def _made(on: Bench, shop: Workshop, row: Row, fit: Evidence | None) -> Recommendation:
    """Made from the plan, with its guarantee, and the score it has now."""
    made = shop.make(row.candidate, row.divisors, refit=fit)
    divisors = {name: float(tensor.divide_by) for name, tensor in made.stored.items()}
    on.put(made.stored, made.coded).set(divisors)
    again = on.score()
    found = on.guarantee(made.stored, made.coded, divisors)
    told = {
        "score_again": again.loss, "agreement_again": again.agreement, "refit": fit is not None,
        "guarantee": None if found is None else asdict(found),
    }  # fmt: skip
    return Recommendation(row=row, made=made, score=again, told=told, fit=fit)
