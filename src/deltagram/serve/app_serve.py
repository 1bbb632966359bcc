"""`serve`: a library's variants behind HTTP, until a signal; then what is inside is finished and the base is back."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from deltagram.errors import SettingError
from deltagram.records import Meter, Record
from deltagram.serve.app import create_app
from deltagram.serve.app_door import Door
from deltagram.serve.app_hosts import hosts_of, is_loopback
from deltagram.serve.app_keys import Keys
from deltagram.serve.app_limits import Limits
from deltagram.serve.app_status import About
from deltagram.serve.requests import Service

_LEAVE: Final = 5  # seconds for answers to reach their clients once the service has closed


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where the server listens, and under which names. `open_to_all`: beyond this machine without a key.

    Raises SettingError for an address beyond this machine without a key, unless that is said to be meant.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    allow_hosts: tuple[str, ...] = ()
    open_to_all: bool = False

    def check(self, keys: Keys) -> None:
        """Refuse an address that anyone reaches, without a key."""
        if keys.api is None and not self.open_to_all and not is_loopback(self.host):
            raise SettingError(
                "--host",
                f"{self.host} is reached from other machines, and there is no API key",
                expected="a key in DELTAGRAM_API_KEY",
                fix="set one, or say --open to let anyone ask",
            )


def serve(
    library: Path, *, open_service: Callable[[], Service], about: About, listening: Listening, keys: Keys,
    limits: Limits, drain: float = 30.0, ready: Callable[[str], None],
) -> Record:  # fmt: skip
    """Serve until SIGTERM or SIGINT; `ready` is told the address. The Record has the service's totals.

    The address is taken before the service is opened. Raises SettingError or OSError for an address that cannot be
    taken, and what `open_service` does.
    """
    listening.check(keys)
    meter, door = Meter.start(), Door()
    with _bound(listening) as taken:
        service = open_service()
        try:
            hosts = hosts_of(listening.host, more=listening.allow_hosts)
            app = create_app(service, about=about, limits=limits, keys=keys, hosts=hosts, door=door)
            address = _address(listening.host, taken.getsockname()[1])
            run(app, taken, door=door, service=service, drain=drain, ready=lambda: ready(address))
        finally:
            service.close(drain=0)
        totals = asdict(service.totals())
    settings = {
        "library": str(library), "address": address, "api_key": keys.api is not None,
        "admin_key": keys.admin is not None, "limits": asdict(limits),
    }  # fmt: skip
    return Record(job="serve", settings=settings, numbers={**_plain(totals), **meter.numbers()})


def run(
    app: FastAPI, taken: socket.socket, *, door: Door, service: Service, drain: float, ready: Callable[[], None],
) -> None:  # fmt: skip
    """Serve on a bound socket until a signal; `drain` seconds for what is inside. A second signal ends it at once."""
    config = uvicorn.Config(
        app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, timeout_graceful_shutdown=_LEAVE,
    )  # fmt: skip
    server = Draining(config, door=door, service=service, drain=drain, ready=ready)
    server.run(sockets=[taken])


class Draining(uvicorn.Server):
    """A server that at a signal first refuses what is new and answers what is inside, and then ends."""

    def __init__(
        self, config: uvicorn.Config, *, door: Door, service: Service, drain: float, ready: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(config)
        self._door = door
        self._service = service
        self._drain = drain
        self._ready = ready
        self._until: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what signal calls it with
        """Close the door at the first signal; end at the second."""
        if self._door.closing:
            self.should_exit = self.force_exit = True
        self._door.closing = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether it is time to end. The service is closed first, so that nothing waits for it."""
        if self._door.closing and not self.should_exit:
            self._until = self._until or time.monotonic() + self._drain
            if self._door.inside == 0 or time.monotonic() > self._until:
                await asyncio.to_thread(self._service.close, drain=0)
                self.should_exit = True
        return await super().on_tick(counter)


def _bound(listening: Listening) -> socket.socket:
    family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
    taken = socket.socket(family)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((listening.host.strip("[]"), listening.port))
    except OSError as fault:
        taken.close()
        raise SettingError(
            "--port", f"{_address(listening.host, listening.port)} cannot be listened on ({fault.strerror or fault})",
            fix="choose another with --port, or 0 for any that is free",
        ) from None  # fmt: skip
    return taken


def _address(host: str, port: int) -> str:
    return f"http://[{host.strip('[]')}]:{port}" if ":" in host else f"http://{host}:{port}"


def _plain(totals: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(totals, default=dict))
    return found
