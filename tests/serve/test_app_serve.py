"""`deltagram serve`: what it says, what it refuses, and that the library's names reach the page."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deltagram.errors import SettingError
from deltagram.serve.app_about import about
from deltagram.serve.app_limits import Limits

TESTS = Path(__file__).parents[1]
# The command line with an engine and a library that are stand-ins; the first argument names a package to miss.
RUN = """
import os, sys, types
sys.path.insert(0, sys.argv.pop(1))
missing = sys.argv.pop(1)


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())


def opened(path, **settings):
    from fakeservice import FakeService
    print(json.dumps({name: str(value) for name, value in settings.items()}), file=sys.stderr)
    return FakeService("alpha")


def library(path):
    entry = types.SimpleNamespace(kind="delta", payload="p", bytes=10, method="random", keep=0.01, values="f32",
                                  added="", note="", quality={"accuracy": 0.9})
    base = types.SimpleNamespace(name="models/base", bytes=1000, where=os.environ.get("WHERE", "path"))
    return types.SimpleNamespace(base=base, variants={"alpha": entry})


import json
import deltagram.serve.variants
import deltagram.store.library
deltagram.serve.variants.open_service = opened
deltagram.store.library.open_library = library

from deltagram.cli import main

main()
"""


def command(*words: str, missing: str = "-") -> list[str]:
    return [sys.executable, "-W", "error", "-c", RUN, str(TESTS), missing, "serve", "lib", *words]


def refused(*words: str, env: dict[str, str] | None = None, missing: str = "-") -> str:
    """What the command says on standard error, and nothing else, with exit code 1."""
    done = subprocess.run(
        command(*words, missing=missing),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | (env or {}),
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    return done.stderr


@contextmanager
def served(
    *words: str, env: dict[str, str] | None = None
) -> "Iterator[tuple[subprocess.Popen[str], dict[str, str], str]]":
    """The process, what its engine was opened with, its address."""
    with subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | (env or {})
    ) as made:
        assert made.stderr is not None
        try:
            settings, line = json.loads(made.stderr.readline()), made.stderr.readline()
            assert line.startswith("lib: serving at http://")
            yield made, settings, line.split()[-1]
        finally:
            made.kill()


def get(address: str, key: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as answer:
        return json.loads(answer.read())


def test_it_serves_until_it_is_told_to_end_and_prints_its_record() -> None:
    keys = {"DELTAGRAM_API_KEY": "the-key-to-ask", "DELTAGRAM_ADMIN_KEY": "the-key-to-load"}
    with served("--port", "0", "--json", "--memory", "20MB", "--max-queue", "7", env=keys) as (
        process,
        settings,
        address,
    ):
        assert settings == {
            "base": "None", "device": "cpu", "dtype": "auto", "memory": "20000000", "max_batch": "32",
            "max_queue": "7",
        }  # fmt: skip
        assert not address.endswith(":0")
        library = get(f"{address}/library", keys["DELTAGRAM_API_KEY"])["library"]
        assert library["base"] == {"name": "base", "bytes": 1000}
        assert library["variants"][0] == {
            "name": "alpha", "kind": "delta", "bytes": 10, "rate": 100.0, "method": "random", "keep": 0.01,
            "values": "f32", "quality": {"accuracy": 0.9}, "note": "", "added": "",
        }  # fmt: skip
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        record = json.loads(out)
        assert (record["job"], record["settings"]["address"]) == ("serve", address)
        assert not [key for key in keys.values() if key in out]


def test_without_json_one_line_at_the_end() -> None:
    with served("--port", "0") as (process, _, __):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        assert out.startswith("lib: answered no requests, refused 0, in ")


def test_an_address_beyond_this_machine_needs_a_key_or_open() -> None:
    said = refused("--host", "0.0.0.0", "--port", "0")
    assert said == (
        "error: --host: 0.0.0.0 is reached from other machines, and there is no API key, expected a key in "
        "DELTAGRAM_API_KEY; set one, or say --open to let anyone ask\n"
    )
    for words, env in ((("--open",), {}), ((), {"DELTAGRAM_API_KEY": "the-key-to-ask"})):
        with served("--host", "0.0.0.0", "--port", "0", *words, env=env) as (process, _, __):
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def test_a_port_that_is_taken_is_told_before_the_model_is_read() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused("--port", str(port))
    assert said == (
        f"error: --port: http://127.0.0.1:{port} cannot be listened on (Address already in use); "
        "choose another with --port, or 0 for any that is free\n"
    )


def test_a_base_of_the_hub_is_asked_of_the_hub() -> None:
    said = refused("--port", "0", env={"WHERE": "hub", "HF_HUB_OFFLINE": "1"})
    assert said.startswith("error: models/base: is not a path here, and the Hub did not give it")
    with served("--port", "0", "--base", str(TESTS), env={"WHERE": "hub"}) as (process, settings, _):
        assert settings["base"] == str(TESTS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_short_key_is_refused_unseen() -> None:
    said = refused(env={"DELTAGRAM_API_KEY": "tiny"})
    assert "--api-key: the key is too short" in said
    assert "tiny" not in said


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra(package: str) -> None:
    said = f"error: serve: package {package} is not installed; pip install 'deltagram[serve]'\n"
    assert refused("--port", "0", missing=package) == said


def test_limits_are_positive() -> None:
    with pytest.raises(SettingError, match=r"--max-tokens: 0 is no bound, expected more than 0"):
        Limits(max_tokens=0)


def test_an_equal_payload_counts_once() -> None:
    entry = SimpleNamespace(kind="adapter", payload="p", bytes=10, method="", keep=None, values="", added="", note="",
                            quality={})  # fmt: skip
    base = SimpleNamespace(name="owner/name@main", bytes=100)
    found = about(SimpleNamespace(base=base, variants={"a": entry, "b": entry}))
    assert (found["stored_bytes"], found["full_bytes"]) == (110, 300)
    assert found["base"]["name"] == "name@main"
