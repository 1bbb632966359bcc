"""A service without a model: answers computed from variant and text, with faults and delays on demand."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from deltagram.errors import Reason, RequestError
from deltagram.serve.requests import (
    BASE,
    Classified,
    Completion,
    Embedded,
    Message,
    Sampling,
    Totals,
    VariantState,
)  # fmt: skip

LABELS = ("negative", "neutral", "positive")
WORDS = [
    "the",
    "film",
    "was",
    "long",
    "and",
    "warm",
    "but",
    "its",
    "end",
    "came",
    "too",
    "soon",
    "for",
    "a",
    "story",
    "of",
    "this",
    "size",
]


def digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()


def classified(variant: str, text: str) -> Classified:
    weights = [1 + byte for byte in digest("classify", variant, text)[: len(LABELS)]]
    scores = dict(sorted(zip(LABELS, (w / sum(weights) for w in weights), strict=True), key=lambda pair: -pair[1]))
    return Classified(label=next(iter(scores)), scores=scores, tokens=len(text.split()))


def embedded(variant: str, text: str | Sequence[int]) -> Embedded:
    seed = int.from_bytes(digest("embed", variant, text)[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    return Embedded(vector=vector / np.linalg.norm(vector), tokens=len(text) if isinstance(text, list) else 3)


def pieces(variant: str, prompt: object, max_tokens: int) -> list[str]:
    """A token a word: the words of all variants are the same but for some."""
    drawn = digest("complete", variant, prompt)
    words = [variant if drawn[i] < 60 else word for i, word in enumerate(WORDS)]
    return [f" {word}" for word in words[:max_tokens]]


@dataclass
class Text:
    """A text on its way."""

    result: "Future[Completion]" = field(default_factory=Future)
    stopped: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self.stopped.set()


class FakeService:
    """`pace` seconds pass before each answer and each piece; a text with `!reason` in it is refused for it."""

    def __init__(self, *names: str, pace: float = 0.0, max_queue: int = 10_000, tasks: Sequence[Any] = ()) -> None:
        self.names = (BASE, *names)
        self.pace, self.max_queue = pace, max_queue
        self.tasks = tuple(tasks) or ("classify", "embed", "generate")
        self.loaded: set[str] = {BASE}
        self.requests: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.cancelled = 0
        self.closed = False
        self.waiting = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(64)

    def variants(self) -> Sequence[VariantState]:
        return [self._state(name) for name in self.names]

    def classify(self, variant: str, text: str, *, deadline: float | None = None) -> "Future[Classified]":
        return self._later("classify", variant, text, lambda: classified(variant, text), deadline=deadline)

    def embed(self, variant: str, text: str | Sequence[int], *, deadline: float | None = None) -> "Future[Embedded]":
        return self._later("embed", variant, text, lambda: embedded(variant, text), deadline=deadline)

    def complete(
        self, variant: str, prompt: str | Sequence[int] | Sequence[Message], sampling: Sampling, *,
        deadline: float | None = None, on_text: Callable[[str], None] | None = None,  # noqa: ARG002 - as Service has it
    ) -> Text:  # fmt: skip
        text = Text()
        refused = self._refusal(variant, prompt)
        if refused is not None:
            text.result.set_exception(refused)
            return text
        self._count("generate", 1)
        self._pool.submit(self._write, text, variant, prompt, sampling, on_text)
        return text

    def load(self, variant: str) -> VariantState:
        self.loaded.add(variant)
        return self._state(variant)

    def unload(self, variant: str) -> VariantState:
        if variant == BASE:
            raise RequestError(BASE, "the base stays in memory", reason="invalid")
        self.loaded.discard(variant)
        return self._state(variant)

    def totals(self) -> Totals:
        return Totals(
            requests=dict(self.requests), refused=dict(self.refused), batches={"swap": 2, "mixed": 3},
            waiting=self.waiting, loaded=len(self.loaded), base_bytes=1000, seconds=1.5,
        )  # fmt: skip

    def close(self, *, drain: float = 30.0) -> None:  # noqa: ARG002 - nothing waits here
        self.closed = True

    def _state(self, name: str) -> VariantState:
        there = name in self.loaded
        return VariantState(name=name, loaded=there, nbytes=4096 * there, tasks=self.tasks)

    def _refusal(self, variant: str, text: object) -> RequestError | None:
        said = repr(text)
        reason: Reason | None = next((r for r in get_args(Reason) if f"!{r}" in said), None)
        if self.closed:
            reason = "closing"
        elif self.waiting >= self.max_queue:
            reason = "queue_full"
        if reason is None:
            return None
        self.refused[reason] += 1
        return RequestError(variant, f"was asked to be refused ({reason})", reason=reason)

    def _later(self, task: str, variant: str, text: object, work: Callable[[], Any], *, deadline: float | None) -> Any:
        refused = self._refusal(variant, text)
        if refused is not None:
            future: Future[Any] = Future()
            future.set_exception(refused)
            return future
        self._count(task, 1)

        def run() -> Any:
            try:
                time.sleep(self.pace)
                if "!boom" in repr(text):
                    raise RuntimeError("a secret of the engine")
                if deadline is not None and self.pace > deadline:
                    raise RequestError(variant, "was not answered in time", reason="deadline")
                return work()
            finally:
                self._count(task, 0)

        return self._pool.submit(run)

    def _count(self, task: str, begins: int) -> None:
        with self._lock:
            self.requests[task] += begins
            self.waiting += 1 if begins else -1

    def _write(
        self, text: Text, variant: str, prompt: object, sampling: Sampling, on_text: Callable[[str], None] | None
    ) -> None:
        told: list[str] = []
        try:
            for number, piece in enumerate(pieces(variant, prompt, sampling.max_tokens)):
                time.sleep(self.pace)
                if self.closed or text.stopped.is_set():
                    self.cancelled += text.stopped.is_set()
                    reason: Reason = "cancelled" if text.stopped.is_set() else "closing"
                    text.result.set_exception(RequestError(variant, "was stopped", reason=reason))
                    return
                if "!midway" in repr(prompt) and number == 3:
                    text.result.set_exception(RuntimeError("a secret of the engine"))
                    return
                if any(stop in piece for stop in sampling.stop):
                    break
                told.append(piece)
                if on_text is not None:
                    on_text(piece)
            finish = "length" if len(told) == sampling.max_tokens else "stop"
            text.result.set_result(
                Completion(text="".join(told), finish=finish, prompt_tokens=3, completion_tokens=len(told))
            )
        finally:
            self._count("generate", 0)


def about(*names: str, base: int = 90_900_000) -> Mapping[str, Any]:
    """A library of these variants, as a page reads it."""
    rows = [
        {
            "name": name, "kind": "adapter" if "lora" in name else "delta", "bytes": 620_000 + 211_000 * i,
            "rate": round(base / (620_000 + 211_000 * i), 2), "method": ("random", "magnitude", "columns")[i % 3],
            "keep": (0.01, 0.02, None)[i % 3], "values": ("f32", "8bit", "f16")[i % 3],
            "quality": {"accuracy": round(0.913 - 0.014 * i, 3)} if i != 1 else {}, "note": "", "added": "2026-01-01",
        }
        for i, name in enumerate(names)
    ]  # fmt: skip
    return {
        "base": {"name": "all-MiniLM-L6-v2", "bytes": base}, "variants": rows,
        "stored_bytes": base + sum(row["bytes"] for row in rows), "full_bytes": base * (1 + len(rows)),
    }  # fmt: skip
