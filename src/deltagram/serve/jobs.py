"""Requests on their way: what each waits for, and which of those that wait go together."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Final

from deltagram.errors import RequestError
from deltagram.serve.requests import Task
from deltagram.serve.sampling import Going
from deltagram.serve.variant import Variant

TOKENS_AT_ONCE: Final = 16_384  # of a batch, with what fills it up


@dataclass(eq=False)
class Job:
    """One request. `until` is when nobody waits for it any more, by `time.monotonic`."""

    task: Task
    name: str
    future: "Future[Any]"
    until: float | None
    ids: Sequence[int] = ()
    variant: Variant | None = None
    going: Going | None = None

    @property
    def result(self) -> "Future[Any]":
        """The answer, or the error that ended it."""
        return self.future

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self.going is not None:
            self.going.cancelled = True
        self.refuse(RequestError(self.name, "the request was cancelled", reason="cancelled"))

    def late(self) -> bool:
        """Whether its deadline has passed; then it ends with that."""
        if self.until is None or time.monotonic() < self.until:
            return False
        self.refuse(RequestError(self.name, "the deadline passed before there was an answer", reason="deadline"))
        return True

    def answer(self, value: Any) -> None:
        """End it well, unless it has ended."""
        try:
            self.future.set_result(value)
        except InvalidStateError:
            return

    def refuse(self, fault: BaseException) -> None:
        """End it with an error, unless it has ended."""
        try:
            self.future.set_exception(fault)
        except InvalidStateError:
            return


@dataclass(eq=False)
class Waiting:
    """Jobs that are ready to run, oldest first."""

    _jobs: list[Job] = field(default_factory=list)
    _more: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False

    def put(self, job: Job) -> None:
        """Add a job that is ready."""
        with self._more:
            self._jobs.append(job)
            self._more.notify()

    def close(self) -> None:
        """`batch` returns none once nothing waits."""
        with self._more:
            self._closed = True
            self._more.notify_all()

    def batch(self, *, most: int, window: float, coming: Callable[[], int]) -> list[Job]:
        """The oldest job and those that can run beside it: of one task and one frame, `most` at most.

        Waits up to `window` seconds for more while `coming()` says that some are being made ready. Empty when closed.
        """
        with self._more:
            self._more.wait_for(lambda: self._jobs or self._closed)
            until = time.monotonic() + window
            while len(self._jobs) < most and coming() > len(self._jobs) and not self._closed:
                if not self._more.wait(until - time.monotonic()) or time.monotonic() >= until:
                    break
            self._jobs = [job for job in self._jobs if not job.future.done() and not job.late()]
            chosen = _together(self._jobs, most)
            taken = {id(job) for job in chosen}
            self._jobs = [job for job in self._jobs if id(job) not in taken]
            return chosen

    def finished(self) -> bool:
        """Whether nothing waits, nor will."""
        return self._closed and not self._jobs


def _together(jobs: Sequence[Job], most: int) -> list[Job]:
    """The first job and those after it that go with it, as long as the batch they fill is not too large."""
    chosen: list[Job] = []
    longest = 0
    for job in jobs:
        if chosen and (job.task != chosen[0].task or _frame(job) is not _frame(chosen[0])):
            continue
        length = max(longest, len(job.ids) + (job.going.sampling.max_tokens if job.going else 0))
        if chosen and (len(chosen) == most or length * (len(chosen) + 1) > TOKENS_AT_ONCE):
            break
        chosen, longest = [*chosen, job], length
    return chosen


def _frame(job: Job) -> Any:
    return None if job.variant is None else job.variant.frame
