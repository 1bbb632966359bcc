"""Texts told piece by piece: from the engine's thread into one queue, and out as server-sent events."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from deltagram.errors import RequestError
from deltagram.serve.openai_answer import Heading
from deltagram.serve.openai_errors import INTERNAL, error_body, refusal
from deltagram.serve.requests import Completion, Pending

Start = Callable[[Callable[[str], None]], Pending]  # begins a text, given what takes its pieces
Event = tuple[int, str | Completion | BaseException]
_LOG = logging.getLogger("deltagram.serve")


class Stream:
    """Several texts on their way; made in the event loop, told from any thread."""

    def __init__(self, starts: Sequence[Start]) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._texts: list[Pending] = []
        self._held: list[Event] = []
        try:
            for index, start in enumerate(starts):
                text = start(partial(self._tell, index))
                self._texts.append(text)
                text.result.add_done_callback(partial(self._ended, index))
        except RequestError:
            self.cancel()
            raise

    async def first(self) -> None:
        """Wait for the first event and hold it back. Raises what ended a text, while a status can still tell it."""
        try:
            event = await self._queue.get()
            if isinstance(event[1], BaseException):
                raise event[1]
        except BaseException:
            self.cancel()
            raise
        self._held.append(event)

    async def events(self) -> AsyncIterator[Event]:
        """Pieces, and each text's Completion at its end; the first fault is the last event."""
        left = len(self._texts)
        while left:
            event = self._held.pop() if self._held else await self._queue.get()
            left -= isinstance(event[1], Completion)
            yield event
            if isinstance(event[1], BaseException):
                return

    def cancel(self) -> None:
        """Stop generating what is not done."""
        for text in self._texts:
            if not text.result.done():
                text.cancel()

    def _tell(self, index: int, event: str | Completion | BaseException) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

    def _ended(self, index: int, future: "Future[Completion]") -> None:
        try:
            fault = future.exception()
        except CancelledError:
            fault = RequestError("", "the request was cancelled", reason="cancelled")
        self._tell(index, fault or future.result())


async def sent(stream: Stream, heading: Heading, *, include_usage: bool) -> AsyncIterator[bytes]:
    """Server-sent events as OpenAI has them: pieces, or an error; counts if asked for; `[DONE]`."""
    done: dict[int, Completion] = {}
    begun: set[int] = set()
    nothing = {"usage": None} if include_usage else {}
    async for index, event in stream.events():
        if isinstance(event, BaseException):
            yield _line(_fault(event))
            break
        if heading.chat and index not in begun:
            yield _line(heading.piece(index, "", first=True) | nothing)
        begun.add(index)
        if isinstance(event, Completion):
            done[index] = event
            yield _line(heading.piece(index, None, finish=event.finish) | nothing)
        elif event:
            yield _line(heading.piece(index, event) | nothing)
    else:
        if include_usage:
            yield _line(heading.counts([done[index] for index in sorted(done)]))
    yield b"data: [DONE]\n\n"


def _line(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n\n"


def _fault(fault: BaseException) -> dict[str, Any]:
    if isinstance(fault, RequestError):
        return refusal(fault)[1]
    _LOG.error("a text ended with a fault", exc_info=fault)
    return error_body(500, INTERNAL, code="internal_error")
