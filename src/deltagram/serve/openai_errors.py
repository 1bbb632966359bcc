"""Refusals in the shape OpenAI's clients read: a status, a code, and `{"error": {...}}`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from deltagram.errors import Reason, RequestError

# The status of each reason, and the `code` that tells it from others of that status.
REASONS: Final[Mapping[Reason, tuple[int, str]]] = MappingProxyType({
    "unknown_variant": (404, "model_not_found"),
    "unusable_variant": (503, "variant_unusable"),
    "wrong_task": (400, "wrong_task"),
    "invalid": (400, "invalid_value"),
    "too_long": (400, "context_length_exceeded"),
    "queue_full": (429, "queue_full"),
    "deadline": (504, "deadline_exceeded"),
    "cancelled": (499, "cancelled"),
    "closing": (503, "closing"),
})  # fmt: skip
_LONGEST = 1000  # characters of a message; what was sent is quoted in some
INTERNAL = "the server failed at this request; its log tells why"


class ParameterError(RequestError):
    """A request refused for one of its parameters, which `param` names."""

    def __init__(self, param: str, found: str, *, reason: Reason = "invalid", expected: str = "") -> None:
        super().__init__(param, found, reason=reason, expected=expected)
        self.param = param


def error_body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The body of an error.

    >>> error_body(404, "there is no such path", code="not_found")["error"]["type"]
    'invalid_request_error'
    """
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": _sendable(message), "type": kind, "param": param and _sendable(param), "code": code}}


def refusal(fault: RequestError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of a refusal."""
    status, code = REASONS[fault.reason]
    param = fault.param if isinstance(fault, ParameterError) else "model" if fault.reason == "unknown_variant" else None
    headers = {}
    if fault.reason in ("queue_full", "closing"):
        headers["Retry-After"] = "1"
    elif fault.reason == "unusable_variant":
        headers["X-Should-Retry"] = "false"  # OpenAI's clients ask again after a 503 otherwise
    return status, error_body(status, str(fault), code=code, param=param), headers


def _sendable(text: str) -> str:
    """Text that UTF-8 can carry, and not longer than a person reads."""
    clipped = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return clipped.encode("utf-8", "replace").decode("utf-8")
