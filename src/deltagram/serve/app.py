"""The HTTP door: routes, errors and the gate before them, put together around a service."""

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

from deltagram.serve.app_door import Door
from deltagram.serve.app_errors import add_error_handlers
from deltagram.serve.app_gate import Gate, Rules
from deltagram.serve.app_hosts import Hosts, hosts_of
from deltagram.serve.app_keys import Keys
from deltagram.serve.app_limits import Limits
from deltagram.serve.app_openai import openai_router
from deltagram.serve.app_page import page_router
from deltagram.serve.app_status import About, status_router
from deltagram.serve.metrics import Metrics
from deltagram.serve.requests import Service

_ABOUT = "Many fine-tuned variants on one base: OpenAI's endpoints, with a variant's name as the model."


def create_app(
    service: Service, *, about: About, limits: Limits | None = None, keys: Keys | None = None,
    hosts: Hosts | None = None, door: Door | None = None,
) -> FastAPI:  # fmt: skip
    """The app that answers from `service`; `about` gives the library as plain data. Without `hosts`, loopback's names.

    Whoever made the service closes it; `door.closing` refuses new requests before that.
    """
    bounds, opening, metrics = limits or Limits(), door or Door(), Metrics(service.totals)
    app = FastAPI(
        title="deltagram", description=_ABOUT, docs_url=None, redoc_url=None, redirect_slashes=False,
        dependencies=[Depends(HTTPBearer(auto_error=False))],  # only describes the key: the gate asks for it
    )  # fmt: skip
    app.include_router(openai_router(service, bounds))
    app.include_router(status_router(service, about=about, door=opening, metrics=metrics))
    app.include_router(page_router())
    add_error_handlers(app)
    rules = Rules(
        keys=keys or Keys(), hosts=hosts or hosts_of("127.0.0.1"), limits=bounds, door=opening, metrics=metrics
    )
    app.add_middleware(Gate, rules=rules)
    return app
