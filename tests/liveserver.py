"""A real server on a port of this machine, in a thread."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deltagram.serve.app import create_app
from deltagram.serve.app_door import Door
from deltagram.serve.app_serve import run
from deltagram.serve.requests import Service
from fakeservice import about

doors: dict[str, Door] = {}  # of the servers that run, by address


@contextmanager
def live(service: Service, *, drain: float = 5.0, **settings: Any) -> Iterator[str]:
    """Its address, while it runs."""
    names = [state.name for state in service.variants()][1:]
    door, started = Door(), threading.Event()
    app = create_app(service, about=lambda: about(*names), door=door, **settings)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        settings_of_run = {"door": door, "service": service, "drain": drain, "ready": started.set}
        thread = threading.Thread(target=run, args=(app, taken), kwargs=settings_of_run)
        thread.start()
        try:
            assert started.wait(10)
            doors[f"http://127.0.0.1:{port}"] = door
            yield f"http://127.0.0.1:{port}"
        finally:
            door.closing = True
            thread.join(20)
            assert not thread.is_alive()
