"""One fine-tuned model, loaded when first needed, on which pruned deltas are put one after another and tested."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.arrays import F64
from deltagram.delta.stored import LowRank, Pruned
from deltagram.errors import SettingError
from deltagram.jobs.evidence import Evidence
from deltagram.jobs.once import digest
from deltagram.jobs.prune import prune
from deltagram.jobs.runnable import runnable
from deltagram.jobs.search import RULES, search
from deltagram.jobs.select import select
from deltagram.jobs.variant import Variant
from deltagram.papers.cells import SELECT, Cell, Outcome, Stored
from deltagram.papers.notes import Notes
from deltagram.papers.scoring import Scorer
from deltagram.progress import Progress
from deltagram.store.adapter import Tuned, open_tuned
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.deltafile import open_delta
from deltagram.training.huggingface import bare_encoder, libraries
from deltagram.training.loaded import Loaded, loaded


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Models, test and evidence of a stage; `evidence_digest` stands for the texts in the evidence's files."""

    base: Path
    tuned: Path
    scorer: Scorer
    evidence: Evidence
    evidence_digest: str


@dataclass(frozen=True, kw_only=True)
class _Open:
    """What is in memory: the model (fine-tuned, unless a delta is on it), a copy of it, and the test."""

    run: Loaded
    base: Checkpoint
    tuned: Tuned
    state: Mapping[str, Any]
    values: Callable[[], F64]
    scratch: Path
    deltas: dict[Stored, int] = field(default_factory=dict)

    def clear(self) -> None:
        """Make it the fine-tuned model again."""
        self.run.model.load_state_dict(self.state)


class Stage:
    """Measures cells of one variant; each is measured once for all (`Notes`), and nothing is loaded for those known."""

    def __init__(self, sources: Sources, notes: Notes, *, progress: Progress) -> None:
        self.sources = sources
        self._notes, self._progress = notes, progress
        self._stack = ExitStack()
        self._opened: _Open | None = None
        self._identity = {
            "base": digest(sources.base), "tuned": digest(sources.tuned), "test": sources.scorer.identity,
        }  # fmt: skip

    def close(self) -> None:
        """Let go of the model."""
        self._opened = None
        self._stack.close()

    def tuned(self) -> Outcome:
        """The fine-tuned model."""
        return self._noted({"model": "tuned"}, lambda live: self._numbers(live.values()))

    def floor(self) -> Outcome:
        """The base under the fine-tuned head (a language model: the base)."""
        return self._noted({"model": "base"}, self._floor)

    def measure(self, cell: Cell) -> Outcome:
        """A pruned delta on the base. Raises SettingError for a delta that cannot be."""
        made_from: dict[str, Any] = {"cell": asdict(cell)}
        if cell.divide_by in RULES or cell.stored.calibrated:
            rest = {name: value for name, value in asdict(self.sources.evidence).items() if not isinstance(value, Path)}
            made_from["evidence"] = {**rest, "digest": self.sources.evidence_digest}
        return self._noted(made_from, lambda live: self._cell(live, cell))

    def _noted(self, made_from: Mapping[str, Any], work: Callable[[_Open], Mapping[str, Any]]) -> Outcome:
        def fresh() -> Mapping[str, Any]:
            live = self._live()
            live.clear()
            return work(live)

        numbers = self._notes.once({**self._identity, **made_from}, fresh)
        return Outcome.of(numbers, self.sources.scorer.score(Outcome.of(numbers, 0.0).values))

    def _floor(self, live: _Open) -> dict[str, Any]:
        with libraries() as (_, transformers):
            live.run.model.base_model.load_state_dict(bare_encoder(transformers, self.sources.base).state_dict())
        return self._numbers(live.values())

    def _cell(self, live: _Open, cell: Cell) -> dict[str, Any]:
        folder, size = self._pruned(live, cell.stored)
        delta = open_delta(folder)
        stored = {name: tensor for name, tensor in delta.load().items() if isinstance(tensor, Pruned | LowRank)}
        variant = Variant(delta=delta, base=live.base, tuned=live.tuned, run=live.run, stored=stored)
        fitted = {name: tensor.divide_by for name, tensor in variant.pruned.items()}
        divisors: Mapping[str, float | F64] = {**variant.default_divisors(), **fitted}
        found: dict[str, Any] = {"delta_std": _std(variant.pruned)}
        if isinstance(cell.divide_by, float):
            divisors = {name: cell.divide_by * divisor for name, divisor in divisors.items()}
        elif cell.divide_by in RULES:
            chosen = search(variant, cell.divide_by, self.sources.evidence, progress=self._progress)
            divisors = chosen.divisors
            kept = ("knob", "value", "forward_passes", "texts", "scales")
            found |= {name: chosen.numbers[name] for name in kept if name in chosen.numbers}
        elif cell.divide_by != "dare":
            raise SettingError("divide_by", f"{cell.divide_by!r} is unknown", expected=f"dare or {' or '.join(RULES)}")
        live.clear()
        variant.trial().set(divisors)
        return self._numbers(live.values(), delta_bytes=size, found=found)

    def _pruned(self, live: _Open, stored: Stored) -> tuple[Path, int]:
        """The delta's folder and bytes; the last one is kept for other divisors."""
        folder = live.scratch / "delta"
        if stored not in live.deltas:
            live.deltas.clear()
            live.deltas[stored] = self._made(stored, folder)
        return folder, live.deltas[stored]

    def _made(self, stored: Stored, folder: Path) -> int:
        """Write the delta; returns its bytes."""
        base, tuned = self.sources.base, self.sources.tuned
        given = self.sources.evidence
        texts: dict[str, Any] = {"calibration": given.calibration, "texts": given.texts, "max_length": given.max_length}
        if stored.method == SELECT:
            record = select(
                base, tuned, budget=stored.budget, labels=given.labels, metric=given.metric, out=folder, force=True,
                seed=stored.seed, progress=self._progress, **texts,
            )  # fmt: skip
            return int(record.numbers["recommended"]["delta_bytes"])
        told = stored.settings() | (texts if stored.calibrated else {})
        record = prune(base, tuned, folder, **told, force=True)
        return int(record.numbers["delta_bytes"])

    def _numbers(self, values: F64, *, delta_bytes: int = 0, found: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return {"values": values.tolist(), "delta_bytes": delta_bytes, "found": dict(found or {})}

    def _live(self) -> _Open:
        if self._opened is None:
            base = open_checkpoint(self.sources.base)
            tuned = open_tuned(self.sources.tuned, base)
            folder = self._stack.enter_context(runnable(tuned))
            run = self._stack.enter_context(loaded(folder, tuned.specs))
            scratch = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="deltagram-"))
            self._opened = _Open(
                run=run, base=base, tuned=tuned, scratch=Path(scratch),
                state={name: value.clone() for name, value in run.model.state_dict().items()},
                values=self.sources.scorer.prepare(run),
            )  # fmt: skip
        return self._opened


def _std(stored: Mapping[str, Pruned]) -> float:
    """Root mean square of the kept differences, all tensors together."""
    squares = sum(float(np.square(tensor.values, dtype=np.float64).sum()) for tensor in stored.values())
    return float(np.sqrt(squares / max(1, sum(tensor.values.size for tensor in stored.values()))))


@contextmanager
def stage(sources: Sources, notes: Notes, *, progress: Progress) -> Iterator[Stage]:
    """A stage, closed with the block."""
    made = Stage(sources, notes, progress=progress)
    try:
        yield made
    finally:
        made.close()
