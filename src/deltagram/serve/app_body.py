"""The body of a request, read whole before anything looks at it: bounded in bytes and in time."""

import asyncio
from typing import Literal

from starlette.types import Message, Receive, Scope

from deltagram.serve.app_limits import Limits

BodyFault = Literal["too_large", "too_slow", "gone"]


async def read_body(scope: Scope, receive: Receive, *, limits: Limits) -> bytes | BodyFault:
    """All bytes, or why there are none. What is too large is noticed as it comes, whatever its header says."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if declared.isdigit() and int(declared[:20]) > limits.body_bytes:
        return "too_large"
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _read(receive, limits.body_bytes)
    except TimeoutError:
        return "too_slow"


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then what comes after it."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _read(receive: Receive, bound: int) -> bytes | BodyFault:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return "gone"
        body += message.get("body", b"")
        if len(body) > bound:
            return "too_large"
        if not message.get("more_body", False):
            return bytes(body)
