"""The service: requests for any variant of a library, answered in batches by one thread."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from deltagram.errors import DeltagramError, LibraryError, Reason, RequestError
from deltagram.serve.answering import Answering
from deltagram.serve.cache import Cache
from deltagram.serve.engine import Engine
from deltagram.serve.jobs import Job, Waiting
from deltagram.serve.requests import (
    BASE,
    Classified,
    Embedded,
    Message,
    Sampling,
    Task,
    Totals,
    VariantState,
)
from deltagram.serve.sampling import Going
from deltagram.serve.shelf import Shelf
from deltagram.serve.variant import Variant

_WINDOW = 0.002  # seconds a batch waits for requests that are being made ready
_READERS = 2  # threads that load variants and read texts


class Variants:
    """A library behind the protocol `requests.Service`.

    Reading texts and loading variants happens on threads of its own; one thread runs the model. `memory` bounds the
    bytes of the variants in memory, `max_queue` the requests inside, `max_batch` the rows of one run.
    """

    def __init__(self, engine: Engine, shelf: Shelf, *, memory: int, max_batch: int, max_queue: int) -> None:
        self._engine, self._shelf, self._cache = engine, shelf, Cache(memory=memory)
        self._max_batch, self._max_queue = max_batch, max_queue
        self._waiting, self._lock = Waiting(), threading.Lock()
        self._inside = 0
        self._closing = False
        self._requests: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._tasks: dict[str, tuple[Task, ...]] = {}
        self._base = engine.variant(BASE)
        self._tasks[BASE] = self._base.tasks
        self._answering = Answering(engine)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="deltagram-reader")
        self._worker = threading.Thread(target=self._work, name="deltagram-engine", daemon=True)
        self._worker.start()

    def variants(self) -> Sequence[VariantState]:
        """The base first, under the name `base`, then the library's variants by name."""
        held = self._cache.held()
        first = VariantState(name=BASE, loaded=True, nbytes=self._engine.base.nbytes, tasks=self._tasks[BASE])
        return [first, *(self._state(name, held) for name in self._shelf.names())]

    def _state(self, name: str, held: Mapping[str, int]) -> VariantState:
        return VariantState(
            name=name, loaded=name in held, nbytes=held.get(name, 0), tasks=self._tasks.get(name, ())
        )  # fmt: skip

    def classify(self, variant: str, text: str, *, deadline: float | None = None) -> "Future[Classified]":
        """The class of a text. `deadline` is in seconds from now; None waits as long as it takes."""
        return self._submit("classify", variant, text, deadline=deadline).future

    def embed(self, variant: str, text: str | Sequence[int], *, deadline: float | None = None) -> "Future[Embedded]":
        """The vector of a text or of token numbers."""
        return self._submit("embed", variant, text, deadline=deadline).future

    def complete(
        self, variant: str, prompt: str | Sequence[int] | Sequence[Message], sampling: Sampling, *,
        deadline: float | None = None, on_text: Callable[[str], None] | None = None,
    ) -> Job:  # fmt: skip
        """Go on from a text, from token numbers, or answer messages through the variant's chat template."""
        return self._submit("generate", variant, prompt, deadline=deadline, sampling=sampling, on_text=on_text)

    def load(self, variant: str) -> VariantState:
        """Bring a variant into memory now. Raises RequestError."""
        found = self._variant(variant)
        held = {variant: found.nbytes} if variant == BASE else self._cache.held()
        return self._state(variant, held)

    def unload(self, variant: str) -> VariantState:
        """Take a variant out of memory; requests for it bring it back. Raises RequestError for the base."""
        if variant == BASE:
            raise RequestError(variant, "the base stays in memory", reason="invalid", fix="unload a variant")
        self._check_known(variant)
        self._cache.drop(variant)
        return self._state(variant, self._cache.held())

    def totals(self) -> Totals:
        """Counts and sizes for monitoring."""
        held = self._cache.held()
        with self._lock:
            done = self._answering.totals()
            return replace(
                done, requests=dict(self._requests), refused=dict(self._refused), waiting=self._inside,
                loads=self._cache.loads, evictions=self._cache.evictions, loaded=len(held),
                base_bytes=self._engine.base.nbytes, variant_bytes=sum(held.values()),
            )  # fmt: skip

    def close(self, *, drain: float = 30.0) -> None:
        """Refuse new requests, finish within `drain` seconds those that wait, refuse the rest; the base is back."""
        until = time.monotonic() + drain
        self._closing = True
        while self._inside and time.monotonic() < until:
            time.sleep(0.01)
        self._waiting.close()
        self._answering.stop()
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._worker.join()
        self._engine.restore()

    def _submit(
        self, task: Task, name: str, prompt: Any, *, deadline: float | None, sampling: Sampling | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Job:  # fmt: skip
        until = None if deadline is None else time.monotonic() + deadline
        job = Job(task=task, name=name, future=Future(), until=until)
        with self._lock:
            full = self._inside >= self._max_queue
            if not full and not self._closing:
                self._inside += 1
                self._requests[task] += 1
            else:
                self._refused["closing" if self._closing else "queue_full"] += 1
        if self._closing or full:
            reason: Reason = "closing" if self._closing else "queue_full"
            found = "the server is closing" if self._closing else f"{self._max_queue} requests are inside already"
            job.refuse(RequestError(name, found, reason=reason, fix="try again later"))
            return job
        job.future.add_done_callback(self._ended)
        try:
            self._readers.submit(self._read, job, prompt, sampling, on_text)
        except RuntimeError:  # it closed in between
            job.refuse(RequestError(name, "the server is closing", reason="closing"))
        return job

    def _ended(self, future: "Future[Any]") -> None:
        fault = future.exception()
        with self._lock:
            self._inside -= 1
            if isinstance(fault, RequestError):
                self._refused[fault.reason] += 1

    def _read(
        self, job: Job, prompt: Any, sampling: Sampling | None, on_text: Callable[[str], None] | None
    ) -> None:  # fmt: skip
        """Make a request ready: its variant in memory, its text as token numbers."""
        try:
            if job.late() or job.future.done():
                return
            job.variant = self._variant(job.name)
            self._check_task(job)
            words = job.variant.words
            messages = not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Mapping)
            if messages:
                job.ids = words.chat(prompt, where=job.name)
            else:
                job.ids = words.read(prompt, where=job.name)
            if sampling is not None:
                _check_room(job, sampling)
                job.going = Going(words=words, sampling=sampling, on_text=on_text, until=job.until)
            self._waiting.put(job)
        except RequestError as fault:
            job.refuse(fault)
        except BaseException as fault:
            job.refuse(fault)
            raise

    def _variant(self, name: str) -> Variant:
        """A variant in memory. Raises RequestError for an unknown one, and for one that cannot be used."""
        if name == BASE:
            return self._base
        self._check_known(name)
        folder = Path(name)
        try:
            digest, folder = self._shelf.payload(name)
            found = self._cache.get(name, digest, lambda: self._engine.variant(name, folder))
        except (DeltagramError, OSError) as fault:
            told = str(fault).replace(str(folder), name)  # who asks need not know where it lies
            raise RequestError(name, f"cannot be used ({told})", reason="unusable_variant") from fault
        self._tasks[name] = found.tasks
        return found

    def _check_known(self, name: str) -> None:
        known = self._shelf.names()
        if name not in known:
            some = ", ".join(known[:8]) or "none"
            raise RequestError(
                name, "is no variant of this library", reason="unknown_variant",
                expected=f"base, or one of {len(known)}: {some}",
            )  # fmt: skip

    def _check_task(self, job: Job) -> None:
        if job.variant is not None and job.task not in job.variant.tasks:
            can = " and ".join(job.variant.tasks)
            raise RequestError(job.name, f"cannot {job.task}", reason="wrong_task", expected=f"what it can: {can}")

    def _work(self) -> None:
        """The one thread that runs the model."""
        while not self._waiting.finished():
            batch = self._waiting.batch(most=self._max_batch, window=_WINDOW, coming=lambda: self._inside)
            if batch:
                self._answering.answer(batch)


def _check_room(job: Job, sampling: Sampling) -> None:
    """Raise RequestError where a prompt and what is to follow are more than the model takes."""
    most = 0 if job.variant is None else job.variant.words.most
    if len(job.ids) + sampling.max_tokens > most:
        raise RequestError(
            job.name, f"{len(job.ids)} tokens of prompt and {sampling.max_tokens} to follow", reason="too_long",
            expected=f"{most} together at most", fix="send less, or ask for less",
        )  # fmt: skip


def open_service(
    library: Path, *, base: Path | None = None, device: str = "cpu", dtype: str = "auto", memory: int = 1 << 30,
    max_batch: int = 32, max_queue: int = 256,
) -> Variants:  # fmt: skip
    """A library's variants, ready to answer. `base` overrides where the library says its base is.

    Raises LibraryError for what is no library, BaseError for another base than its own, SettingError, CheckpointError.
    """
    shelf = Shelf(library)
    found = base if base is not None else Path(shelf.base.name)
    if not found.exists():
        raise LibraryError(str(library), f"its base {shelf.base.name} is not here", fix="name a local copy with --base")
    engine = Engine(found, digest=shelf.base.digest, dtype=dtype, device=device)
    return Variants(engine, shelf, memory=memory, max_batch=max_batch, max_queue=max_queue)
