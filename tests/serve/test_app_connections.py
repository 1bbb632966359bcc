"""Real connections: bodies too large or too slow, clients that leave, a server that closes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from deltagram.serve.app_limits import Limits
from fakeservice import WORDS, FakeService
from liveserver import doors, live

TESTS = Path(__file__).parents[1]
LIMITS = Limits(body_bytes=10_000, body_seconds=0.5)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port_of(address)), timeout=10) as made:
        yield made


def head(length: str, path: str = "/v1/completions") -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", length)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and error of what comes until the server closes the connection."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    first, _, rest = data.partition(b"\r\n")
    error: dict[str, Any] = json.loads(rest.partition(b"\r\n\r\n")[2])["error"]
    return int(first.split()[1]), error


def until(condition: Callable[[], bool], *, seconds: float = 5.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_body_that_says_it_is_too_large_is_not_waited_for() -> None:
    with live(FakeService("alpha"), limits=LIMITS) as address, connected(address) as connection:
        connection.sendall(head("Content-Length: 10001"))
        status, error = answer(connection)
        assert (status, error["code"], error["type"]) == (413, "body_too_large", "invalid_request_error")


def test_a_body_that_grows_too_large_is_cut_off_as_it_comes() -> None:
    with live(FakeService("alpha"), limits=LIMITS) as address, connected(address) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
        for _ in range(11):  # and no last chunk
            connection.sendall(chunk)
        status, error = answer(connection)
        assert (status, error["code"]) == (413, "body_too_large")


def test_a_body_that_trickles_is_given_up() -> None:
    service = FakeService("alpha")
    with live(service, limits=LIMITS) as address, connected(address) as slow:
        slow.sendall(head("Content-Length: 5000"))
        started = time.monotonic()
        slow.sendall(b"{")
        other = HTTPConnection("127.0.0.1", port_of(address))
        other.request("GET", "/health")
        assert other.getresponse().status == 200  # others are answered meanwhile
        other.close()
        status, error = answer(slow)
        assert (status, error["code"]) == (408, "body_too_slow")
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seen", [0, 1])
def test_a_client_that_leaves_ends_its_text(stream: bool, seen: int) -> None:
    service = FakeService("alpha", pace=0.2)
    body = json.dumps({"model": "alpha", "prompt": ["a", "b"], "max_tokens": 100, "stream": stream}).encode()
    with live(service) as address:
        with connected(address) as connection:
            connection.sendall(head(f"Content-Length: {len(body)}") + body)
            until(lambda: service.waiting == 2)
            if stream and seen:
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        until(lambda: service.waiting == 0, seconds=0.2 * len(WORDS) / 2)
        assert service.cancelled == 2


def test_a_closing_server_finishes_what_is_inside_and_refuses_the_rest() -> None:
    service = FakeService("alpha", pace=0.8)
    found: list[tuple[int, Any]] = []
    with live(service) as address:
        inside, idle = (HTTPConnection("127.0.0.1", port_of(address)) for _ in range(2))
        idle.request("GET", "/health")
        assert idle.getresponse().read() == b'{"status":"ok"}'
        body = json.dumps({"model": "alpha", "input": "x"})
        inside.request("POST", "/classify", body, {"Content-Type": "application/json"})
        until(lambda: service.waiting == 1)
        thread = threading.Thread(target=lambda: found.append((inside.getresponse().status, time.monotonic())))
        thread.start()
        doors[address].closing = True
        for path, code in (("/v1/models", "closing"), ("/health", "closing")):
            fresh = HTTPConnection("127.0.0.1", port_of(address))
            fresh.request("GET", path)
            refused = fresh.getresponse()
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert json.loads(refused.read())["error"]["code"] == code
            fresh.close()
        idle.close()
    thread.join(10)
    inside.close()
    assert found[0][0] == 200
    assert service.closed


SERVE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fakeservice import FakeService, about
from deltagram.serve.app_keys import Keys
from deltagram.serve.app_limits import Limits
from deltagram.serve.app_serve import Listening, serve

record = serve(
    Path("library"), open_service=lambda: FakeService("alpha", pace=float(sys.argv[2])), about=lambda: about("alpha"),
    listening=Listening(port=0), keys=Keys(api="the-key-to-ask"), limits=Limits(), drain=float(sys.argv[3]),
    ready=lambda address: print(address, flush=True),
)
print(record.line())
"""


@contextmanager
def process(pace: float, drain: float) -> "Iterator[tuple[subprocess.Popen[str], HTTPConnection]]":
    command = [sys.executable, "-W", "error", "-c", SERVE, str(TESTS), str(pace), str(drain)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        try:
            connection = HTTPConnection("127.0.0.1", port_of(made.stdout.readline().strip()))
            yield made, connection
            connection.close()
        finally:
            made.kill()


def ask(connection: HTTPConnection) -> None:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer the-key-to-ask"}
    connection.request("POST", "/classify", json.dumps({"model": "alpha", "input": "x"}), headers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(number: int) -> None:
    with process(1.0, 10.0) as (server, connection):
        ask(connection)
        time.sleep(0.4)
        os.kill(server.pid, number)
        response = connection.getresponse()
        assert response.status == 200
        response.read()
        out, err = server.communicate(timeout=15)
        assert (server.returncode, err) == (0, "")
        record = json.loads(out)
        assert (record["job"], record["numbers"]["requests"]) == ("serve", {"classify": 1})
        assert record["settings"]["api_key"] is True
        assert "the-key-to-ask" not in out


def test_what_outlasts_the_drain_is_refused() -> None:
    with process(3.0, 0.3) as (server, connection):
        ask_text(connection)
        time.sleep(0.3)
        started = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        response = connection.getresponse()
        assert response.status == 503
        assert json.loads(response.read())["error"]["code"] == "closing"
        _, err = server.communicate(timeout=15)
        assert (server.returncode, err) == (0, "")
        assert time.monotonic() - started < 8


def ask_text(connection: HTTPConnection) -> None:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer the-key-to-ask"}
    connection.request("POST", "/v1/completions", json.dumps({"model": "alpha", "prompt": "x"}), headers)
