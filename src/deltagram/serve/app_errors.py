"""Every error as OpenAI's clients expect it: bad words 400, refusals by their reason, faults without a traceback."""

import logging
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from deltagram.errors import DeltagramError, RequestError
from deltagram.serve.openai_errors import INTERNAL, error_body, refusal
from deltagram.serve.openai_request import FORMS, UNSUPPORTED

_LOG = logging.getLogger("deltagram.serve")
SECURITY: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_WORDS: Final = {400: ("the request cannot be read", "invalid_request"), 404: ("there is no such path", "not_found"),
                 405: ("the path does not take this method", "method_not_allowed")}  # fmt: skip


class ErrorDetail(BaseModel):
    """What went wrong: in words, its kind, the parameter at fault, and a code that programs can tell apart."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorDetail


RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": ErrorAnswer, "description": "ParameterError: the request is at fault, or there are too many"},
    "5XX": {"model": ErrorAnswer, "description": "Not answered: closing, too late, a variant or the server at fault"},
}


def add_error_handlers(app: FastAPI) -> None:
    """Put every error of an app in OpenAI's shape."""
    app.add_exception_handler(RequestValidationError, _bad_words)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DeltagramError, _refused)
    app.add_exception_handler(Exception, _fault)


def error_response(
    status: int, message: str, *, code: str, param: str | None = None, headers: dict[str, str] | None = None,
) -> JSONResponse:  # fmt: skip
    """An error as a response."""
    return JSONResponse(error_body(status, message, code=code, param=param), status, headers)


def _refused(_: Request, fault: Exception) -> JSONResponse:
    if isinstance(fault, RequestError):
        status, body, headers = refusal(fault)
        return JSONResponse(body, status, headers)
    _LOG.error("%s", fault)  # of the library: what it says may name paths, so only the log has it
    return error_response(503, "the library cannot be read now; the server's log tells why", code="library_unusable")


def _http(_: Request, fault: Exception) -> JSONResponse:
    refused = fault if isinstance(fault, HTTPException) else HTTPException(500)
    message, code = _WORDS.get(refused.status_code, (refused.detail, "refused"))
    return error_response(refused.status_code, message, code=code, headers=dict(refused.headers or {}))


def _fault(_: Request, __: Exception) -> JSONResponse:
    """The server logs the traceback, and closes the connection."""
    return error_response(500, INTERNAL, code="internal_error", headers={**SECURITY, "Connection": "close"})


def _bad_words(_: Request, fault: Exception) -> JSONResponse:
    """The first thing that does not fit, named by its place; what was sent is not repeated."""
    errors = fault.errors() if isinstance(fault, RequestValidationError) else []
    first: dict[str, Any] = dict(errors[0]) if errors else {"type": "", "loc": (), "msg": "cannot be read"}
    place = [str(part) for part in first["loc"][1:]]
    field = place[0] if place else ""
    if first["type"] == "json_invalid":
        return error_response(400, "the body is not JSON", code="invalid_json")
    if not field:
        return error_response(400, "the body is no JSON object (Content-Type: application/json)", code="invalid_type")
    if first["type"] == "extra_forbidden":
        name = ".".join(place)
        return error_response(400, f"unrecognized request argument: {name}", code="unknown_parameter", param=name)
    if first["type"] == "missing":
        name = ".".join(place)
        return error_response(400, f"missing required parameter: {name}", code="missing_required_parameter", param=name)
    if field in UNSUPPORTED:
        message = f"{field}: this server does not support it at this value; leave it out"
        return error_response(400, message, code="unsupported_parameter", param=field)
    expected = FORMS.get(next((part for part in reversed(place) if part in FORMS), ""), "")
    message = f"{field}: expected {expected}" if expected else f"{'.'.join(place)}: {first['msg']}"
    return error_response(400, message, code="invalid_value", param=field)
