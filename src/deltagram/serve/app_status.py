"""How the server is: alive, its metrics, its library; and variants brought into memory or out of it."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from deltagram.serve.app_door import Door
from deltagram.serve.app_errors import RESPONSES, error_response
from deltagram.serve.metrics import CONTENT_TYPE, Metrics
from deltagram.serve.openai_words import known
from deltagram.serve.requests import Service, VariantState

About = Callable[[], Mapping[str, Any]]


class Health(BaseModel):
    """The answer of `GET /health`."""

    status: str


class State(BaseModel):
    """A variant as the engine has it now; `nbytes` is 0 unless it is loaded."""

    name: str
    loaded: bool
    nbytes: int
    tasks: list[str]


class LibraryAnswer(BaseModel):
    """What the library holds, and what of it is in memory."""

    library: dict[str, Any]
    states: list[State]


def status_router(service: Service, *, about: About, door: Door, metrics: Metrics) -> APIRouter:
    """The routes; `about` tells the library as JSON data, and may read files."""
    router = APIRouter(responses=RESPONSES)

    @router.get("/health", response_model=Health)
    async def health() -> Response:
        """Whether new requests are taken."""
        if door.closing:
            return error_response(503, "the server is closing", code="closing", headers={"Retry-After": "1"})
        return JSONResponse({"status": "ok"})

    @router.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE: {}}}})
    def read_metrics() -> Response:
        """Counts in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @router.get("/library", response_model=LibraryAnswer)
    def library() -> Response:
        """The variants, their sizes and recorded quality, and which are in memory."""
        states = [_state(state) for state in service.variants()]
        return JSONResponse({"library": jsonable_encoder(about()), "states": states})

    @router.post("/v1/variants/{name}/load", response_model=State)
    def load(name: str) -> Response:
        """Bring a variant into memory now."""
        return JSONResponse(_state(service.load(known(service, name))))

    @router.post("/v1/variants/{name}/unload", response_model=State)
    def unload(name: str) -> Response:
        """Take a variant out of memory."""
        return JSONResponse(_state(service.unload(known(service, name))))

    return router


def _state(state: VariantState) -> dict[str, Any]:
    return {"name": state.name, "loaded": state.loaded, "nbytes": state.nbytes, "tasks": list(state.tasks)}
