"""Batches of requests through the engine, each the way that should be sooner."""

import time
from collections import Counter
from collections.abc import Sequence

from deltagram.errors import RequestError
from deltagram.serve.costs import Batch, Costs, Way
from deltagram.serve.engine import Engine, Row
from deltagram.serve.frames import Frame
from deltagram.serve.jobs import Job
from deltagram.serve.requests import Completion, Totals
from deltagram.serve.sampling import Going


class Answering:
    """Runs batches; learns for each frame and task which way is sooner. One thread calls it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._costs: dict[tuple[int, str], Costs] = {}
        self._agrees: dict[int, bool] = {}
        self._batches: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._swaps, self._seconds = 0, 0.0
        self._stopped = False

    def totals(self) -> Totals:
        """What was done so far."""
        return Totals(
            batches=dict(self._batches), prompt_tokens=self._tokens["prompt"],
            completion_tokens=self._tokens["completion"], swaps=self._swaps, seconds=self._seconds,
        )  # fmt: skip

    def stop(self) -> None:
        """What is still to be answered is refused."""
        self._stopped = True

    def answer(self, jobs: Sequence[Job]) -> None:
        """Answer jobs of one task and one frame; every one of them has ended afterwards.

        A batch that fails is tried again row by row, so that one variant's fault is not the others'.
        """
        going = [job.going for job in jobs if job.going is not None]
        if self._stopped:
            for job in jobs:
                job.refuse(RequestError(job.name, "the server is closing", reason="closing"))
            return
        try:
            self._run(jobs)
        except Exception as fault:  # noqa: BLE001 - the one thread that answers must outlive whatever a model raises
            self._engine.restore()
            if len(jobs) > 1 and not any(one.ids for one in going):
                for job in jobs:
                    self.answer([job])
                return
            for job in jobs:
                found = " ".join(str(fault).split())[:300]
                job.refuse(RequestError(job.name, f"the model failed ({found})", reason="unusable_variant"))

    def _run(self, jobs: Sequence[Job]) -> None:
        rows = [Row(variant=job.variant, ids=job.ids) for job in jobs if job.variant is not None]
        steps = max((job.going.sampling.max_tokens for job in jobs if job.going is not None), default=1)
        batch = _batch(rows, steps)
        costs = self._costs.setdefault((id(rows[0].variant.frame), jobs[0].task), Costs())
        way = self._way(rows, batch, costs)
        start, before = time.perf_counter(), self._engine.swaps
        answers = self._answers(jobs, rows, way)
        seconds = time.perf_counter() - start
        ran = max((len(job.going.ids) for job in jobs if job.going is not None), default=1)
        costs.learn(_batch(rows, max(1, ran)), way, seconds)
        self._count(jobs, way, seconds, self._engine.swaps - before)
        for job, answer in zip(jobs, answers, strict=True):
            if not job.late():
                job.answer(answer)

    def _answers(self, jobs: Sequence[Job], rows: Sequence[Row], way: Way) -> Sequence[object]:
        if jobs[0].task == "classify":
            return self._engine.classify(rows, way=way)
        if jobs[0].task == "embed":
            return self._engine.embed(rows, way=way)
        going: list[Going] = [job.going for job in jobs if job.going is not None]
        answers: list[Completion] = self._engine.generate(rows, going, way=way)
        self._tokens["completion"] += sum(answer.completion_tokens for answer in answers)
        return answers

    def _way(self, rows: Sequence[Row], batch: Batch, costs: Costs) -> Way:
        """What can be done, and of that what should take less time."""
        if any(row.variant.patch is None for row in rows):
            return "mixed"
        return costs.choose(batch) if self._agreeing(rows) else "swap"

    def _agreeing(self, rows: Sequence[Row]) -> bool:
        """Whether both ways give the same for this frame: found out once, by the first rows that a patch can serve.

        Layers that mix rows of a batch in a way that is not seen through would show here.
        """
        frame: Frame = rows[0].variant.frame
        if id(frame) not in self._agrees:
            self._agrees[id(frame)] = self._engine.ways_agree(rows[:4])
        return self._agrees[id(frame)]

    def _count(self, jobs: Sequence[Job], way: Way, seconds: float, swaps: int) -> None:
        self._batches[way] += 1
        self._tokens["prompt"] += sum(len(job.ids) for job in jobs)
        self._swaps += swaps
        self._seconds += seconds


def _batch(rows: Sequence[Row], steps: int) -> Batch:
    longest = max(len(row.ids) for row in rows)
    counts: dict[int, list[int]] = {}
    for row in rows:
        counts.setdefault(id(row.variant), [0, row.variant.entries])[0] += longest
    return Batch(
        tokens=[tokens for tokens, _ in counts.values()],
        entries=[entries for _, entries in counts.values()],
        steps=steps,
    )
