"""Keys, hosts, headers, and what is off unless it is asked for."""

import hmac
from typing import Any

import pytest
from starlette.testclient import TestClient

from deltagram.errors import SettingError
from deltagram.serve import app_keys
from deltagram.serve.app import create_app
from deltagram.serve.app_hosts import hosts_of
from deltagram.serve.app_keys import Keys
from fakeservice import FakeService, about

API, ADMIN = "the-key-to-ask", "the-key-to-load"
OPEN = ("/", "/health", "/page/app.js", "/page/answers.js", "/page/library.js", "/page/style.css", "/page/icon.svg")
GUARDED = ("/v1/models", "/v1/models/alpha", "/library", "/metrics", "/openapi.json", "/v1/nothing")


def client(service: FakeService | None = None, **settings: Any) -> TestClient:
    app = create_app(service or FakeService("alpha"), about=lambda: about("alpha"), **settings)
    return TestClient(app, base_url="http://localhost:8000")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_without_the_key_only_the_page_and_the_health_answer() -> None:
    with client(keys=Keys(api=API)) as asking:
        assert {asking.get(path).status_code for path in OPEN} == {200}
        for path in GUARDED:
            for headers in (
                {},
                bearer(""),
                bearer("x" * 500),
                {"Authorization": API},
                {"Authorization": f"Basic {API}"},
            ):
                answer = asking.get(path, headers=headers)
                assert answer.status_code == 401, (path, headers)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] in ("missing_api_key", "invalid_api_key")
                assert API not in answer.text
        assert asking.get("/v1/models", headers=bearer(API)).status_code == 200
        assert asking.get("/v1/models", headers={"Authorization": f"bearer  {API} "}).status_code == 200


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    real = hmac.compare_digest

    def spy(given: bytes, key: bytes) -> bool:
        compared.append((given, key))
        return real(given, key)

    monkeypatch.setattr(app_keys.hmac, "compare_digest", spy)
    keys = Keys(api=API, admin=ADMIN)
    assert keys.verdict(b"Bearer " + API.encode(), admin=False) == "pass"
    assert compared == [(API.encode(), API.encode()), (API.encode(), ADMIN.encode())]  # the second too
    assert keys.verdict("Bearer é".encode("latin-1"), admin=False) == "wrong"
    assert keys.verdict(b"Bearer " + API.encode(), admin=True) == "wrong"
    assert keys.verdict(b"Bearer " + ADMIN.encode(), admin=True) == "pass"


def test_keys_are_not_shown() -> None:
    assert API not in repr(Keys(api=API, admin=ADMIN))
    assert ADMIN not in str(Keys(api=API, admin=ADMIN))


@pytest.mark.parametrize("key", ["", "tiny", "has a space in it", "line\nbreak-in-it", "schlüssel-länge"])
def test_keys_that_are_none(key: str) -> None:
    with pytest.raises(SettingError, match=r"--admin-key: the key is too short, or .* 8 printable ASCII") as caught:
        Keys(admin=key)
    assert not key or key not in str(caught.value)


def test_loading_is_off_without_an_admin_key() -> None:
    for keys in (Keys(), Keys(api=API)):
        with client(keys=keys) as asking:
            for what in ("load", "unload"):
                answer = asking.post(f"/v1/variants/alpha/{what}", headers=bearer(API))
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "admin_off")


def test_loading_needs_the_admin_key() -> None:
    service = FakeService("alpha")
    with client(service, keys=Keys(admin=ADMIN)) as asking:
        assert asking.post("/v1/variants/alpha/load").status_code == 401
        assert asking.post("/v1/variants/alpha/load", headers=bearer(API)).status_code == 401
        assert "alpha" not in service.loaded
        loaded = asking.post("/v1/variants/alpha/load", headers=bearer(ADMIN)).json()
        assert loaded == {"name": "alpha", "loaded": True, "nbytes": 4096, "tasks": ["classify", "embed", "generate"]}
        assert asking.get("/library").json()["states"][1]["loaded"] is True
        assert asking.post("/v1/variants/alpha/unload", headers=bearer(ADMIN)).json()["loaded"] is False
        for name in ("gamma", "..%2Falpha", "%2e%2e"):
            assert asking.post(f"/v1/variants/{name}/load", headers=bearer(ADMIN)).status_code == 404
        answer = asking.post("/v1/variants/base/unload", headers=bearer(ADMIN))
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "base: the base stays in memory")
    with client(keys=Keys(api=API, admin=ADMIN)) as asking:
        assert asking.get("/v1/models", headers=bearer(ADMIN)).status_code == 200


def test_names_that_point_here_from_elsewhere_are_refused() -> None:
    with client() as asking:
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "localhost."):
            assert asking.get("/health", headers={"Host": host}).status_code == 200, host
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "0.0.0.0", "", "[::2]"):
            answer = asking.get("/health", headers={"Host": host})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed"), host


def test_hosts_of_an_address() -> None:
    assert hosts_of("0.0.0.0").admit(b"anything.example")
    named = hosts_of("0.0.0.0", more=["Models.example"])
    assert named.admit(b"models.example:443")
    assert not named.admit(b"other.example")
    assert hosts_of("127.0.0.1", more=["proxy.example"]).admit(b"proxy.example")
    assert hosts_of("127.0.0.2").admit(b"127.0.0.2:9")
    assert not hosts_of("127.0.0.1").admit(None)


def test_every_answer_has_the_headers() -> None:
    with client(keys=Keys(api=API)) as asking:
        for path in (*OPEN, *GUARDED):
            for headers in ({}, bearer(API), {"Host": "evil.example"}):
                answer = asking.get(path, headers={**headers, "Origin": "https://evil.example"})
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["x-frame-options"] == "DENY"
                assert "default-src 'none'" in answer.headers["content-security-policy"]
                assert "unsafe" not in answer.headers["content-security-policy"]
                assert answer.headers["cache-control"] in ("no-store", "no-cache")
                assert not [name for name in answer.headers if name.startswith("access-control-")]
                assert "server" not in answer.headers
        assert asking.options("/v1/models", headers=bearer(API)).status_code == 405
