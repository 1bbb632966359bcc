"""What every request passes before a route sees it: host, closing, key, body; and what every answer carries."""

import time
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deltagram.serve.app_body import BodyFault, read_body, replay
from deltagram.serve.app_door import Door
from deltagram.serve.app_errors import SECURITY, error_response
from deltagram.serve.app_hosts import Hosts
from deltagram.serve.app_keys import Keys, Verdict
from deltagram.serve.app_limits import Limits
from deltagram.serve.app_page import FILES
from deltagram.serve.metrics import Metrics

_OPEN: Final = frozenset({"/health", *(path for path, _, _ in FILES)})  # need no key
_ADMIN: Final = "/v1/variants/"
_WHILE_CLOSING: Final = ("/health", "/metrics")
_KEY_FAULTS: Final[dict[Verdict, tuple[int, str, str]]] = {
    "missing": (401, "no key was given, expected the header Authorization: Bearer KEY", "missing_api_key"),
    "wrong": (401, "the key is not one of this server's", "invalid_api_key"),
    "off": (403, "loading and unloading are off; start the server with an admin key", "admin_off"),
}
_BODY_FAULTS: Final[dict[BodyFault, tuple[int, str, str]]] = {
    "too_large": (413, "the body is larger than this server reads", "body_too_large"),
    "too_slow": (408, "the body did not arrive in time", "body_too_slow"),
    "gone": (499, "the client went away before its body was there", "cancelled"),
}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is asked of a request at the door."""

    keys: Keys
    hosts: Hosts
    limits: Limits
    door: Door
    metrics: Metrics


class Gate:
    """ASGI middleware: refuses at the door in OpenAI's shape, counts, and puts security headers on all answers."""

    def __init__(self, app: ASGIApp, *, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rules, started, status = self._rules, time.perf_counter(), 500

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        rules.door.inside += 1
        rules.metrics.began()
        try:
            await self._pass(scope, receive, dressed)
        finally:
            rules.door.inside -= 1
            path = getattr(scope.get("route"), "path", None)
            seconds = time.perf_counter() - started
            rules.metrics.ended(scope["method"], path, status=status, seconds=seconds)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(scope)
        body: bytes | BodyFault = b""
        if refused is None and scope["method"] not in ("GET", "HEAD"):
            body = await read_body(scope, receive, limits=self._rules.limits)
        if isinstance(body, str):
            status, message, code = _BODY_FAULTS[body]
            refused = error_response(status, message, code=code, headers={"Connection": "close"})
        if refused is not None:
            await refused(scope, receive, send)
        elif scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        else:
            await self._app(scope, replay(body if isinstance(body, bytes) else b"", receive), send)

    def _refused(self, scope: Scope) -> JSONResponse | None:
        rules, path = self._rules, scope["path"]
        headers = dict(scope["headers"])
        if not rules.hosts.admit(headers.get(b"host")):
            message = "the Host header names another server; start this one with --allow-host to let it be called so"
            return error_response(403, message, code="host_not_allowed")
        if rules.door.closing and path not in _WHILE_CLOSING:
            closing = {"Retry-After": "1", "Connection": "close"}
            return error_response(503, "the server is closing", code="closing", headers=closing)
        if path in _OPEN:
            return None
        verdict = rules.keys.verdict(headers.get(b"authorization"), admin=path.startswith(_ADMIN))
        if verdict == "pass":
            return None
        status, message, code = _KEY_FAULTS[verdict]
        challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else None
        return error_response(status, message, code=code, headers=challenge)
