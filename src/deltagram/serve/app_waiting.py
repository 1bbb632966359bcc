"""From the engine's threads to the event loop: futures awaited, and a client that goes away noticed."""

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from starlette.requests import Request

from deltagram.errors import RequestError
from deltagram.serve.requests import Completion, Pending

T = TypeVar("T")


async def answer(future: "Future[T]") -> T:
    """The result of a future of another thread; leaving off waiting does not cancel it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def tell(_: "Future[T]") -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(ended.set)

    future.add_done_callback(tell)
    await ended.wait()
    try:
        return future.result()
    except CancelledError:
        raise RequestError("", "the request was cancelled", reason="cancelled") from None


async def answers(futures: "Sequence[Future[T]]") -> list[T]:
    """All results, or the first fault of any."""
    return list(await asyncio.gather(*map(answer, futures)))


async def completions(texts: Sequence[Pending]) -> list[Completion]:
    """All texts; none of them is generated further when one fails or the wait ends."""
    try:
        return await answers([text.result for text in texts])
    finally:
        stop(texts)


def stop(texts: Sequence[Pending]) -> None:
    """Cancel the texts that are still on their way."""
    for text in texts:
        if not text.result.done():
            text.cancel()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away: then RequestError ("cancelled")."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestError("", "the client went away before the answer", reason="cancelled")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
