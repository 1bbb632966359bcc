"""Every refusal: its status, its code, the parameter it names, in OpenAI's shape; nothing of the inside shows."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from deltagram.errors import LibraryError
from deltagram.serve.app import create_app
from deltagram.serve.app_limits import Limits
from fakeservice import FakeService, about

LIMITS = Limits(inputs=3, characters=50, tokens=5, max_tokens=20, body_bytes=5000)
TEXT = {"model": "alpha", "prompt": "x"}
CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}]}
VECTOR = {"model": "alpha", "input": "x"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = create_app(FakeService("alpha"), about=lambda: about("alpha"), limits=LIMITS)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as made:
        yield made


def said(response: Any) -> tuple[int, str | None, str | None]:
    """Status, code, parameter of an error, whose shape is checked."""
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == ("server_error" if response.status_code >= 500 else "invalid_request_error")
    return response.status_code, error["code"], error["param"]


COMPLETIONS = [
    ({"n": 2}, "unsupported_parameter", "n"), ({"best_of": 2}, "unsupported_parameter", "best_of"),
    ({"echo": True}, "unsupported_parameter", "echo"), ({"suffix": "a"}, "unsupported_parameter", "suffix"),
    ({"logprobs": 0}, "unsupported_parameter", "logprobs"),
    ({"presence_penalty": 0.1}, "unsupported_parameter", "presence_penalty"),
    ({"frequency_penalty": -1}, "unsupported_parameter", "frequency_penalty"),
    ({"logit_bias": {"5": 1}}, "unsupported_parameter", "logit_bias"),
    ({"min_p": 0.1}, "unknown_parameter", "min_p"), ({"max_tokens": 0}, "invalid_value", "max_tokens"),
    ({"max_tokens": 21}, "invalid_value", "max_tokens"), ({"max_tokens": "5"}, "invalid_value", "max_tokens"),
    ({"max_tokens": True}, "invalid_value", "max_tokens"), ({"temperature": 2.1}, "invalid_value", "temperature"),
    ({"top_p": 0}, "invalid_value", "top_p"), ({"seed": 2**63}, "invalid_value", "seed"),
    ({"seed": 1.5}, "invalid_value", "seed"), ({"stop": list("abcde")}, "invalid_value", "stop"),
    ({"stop": ""}, "invalid_value", "stop"), ({"stream": "yes"}, "invalid_value", "stream"),
    ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
    ({"prompt": []}, "invalid_value", "prompt"), ({"prompt": {}}, "invalid_value", "prompt"),
    ({"prompt": ["a", 1]}, "invalid_value", "prompt"), ({"prompt": [-1]}, "invalid_value", "prompt"),
    ({"prompt": [2**31]}, "invalid_value", "prompt"), ({"prompt": [[]]}, "invalid_value", "prompt"),
    ({"prompt": list("abcd")}, "invalid_value", "prompt"), ({"prompt": "a" * 51}, "context_length_exceeded", "prompt"),
    ({"prompt": [1] * 6}, "context_length_exceeded", "prompt"), ({"model": 5}, "invalid_value", "model"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "code", "param"), COMPLETIONS)
def test_completions_refuse(client: TestClient, more: dict[str, Any], code: str, param: str) -> None:
    assert said(client.post("/v1/completions", json=TEXT | more)) == (400, code, param)


CHATS = [
    ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
    ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
    ({"logprobs": True}, "unsupported_parameter", "logprobs"),
    ({"top_logprobs": 2}, "unsupported_parameter", "top_logprobs"),
    ({"reasoning_effort": "low"}, "unsupported_parameter", "reasoning_effort"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "invalid_value", "max_tokens"),
    ({"max_completion_tokens": 21}, "invalid_value", "max_completion_tokens"),
    ({"messages": []}, "invalid_value", "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_value", "messages"),
    ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages.0.content"),
    ({"messages": [{"role": "user", "content": "a" * 51}]}, "context_length_exceeded", "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "invalid_value", "messages"),
    ({"messages": [{"role": "user", "content": "x", "weight": 1}]}, "unknown_parameter", "messages.0.weight"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "code", "param"), CHATS)
def test_chats_refuse(client: TestClient, more: dict[str, Any], code: str, param: str) -> None:
    assert said(client.post("/v1/chat/completions", json=CHAT | more)) == (400, code, param)


NEUTRAL = {
    "n": 1, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "presence_penalty": 0,
    "frequency_penalty": 0.0, "logit_bias": {}, "logprobs": False, "store": False, "user": "me", "stop": [],
    "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True, "modalities": ["text"],
}  # fmt: skip


def test_neutral_values_change_nothing(client: TestClient) -> None:
    plain = client.post("/v1/chat/completions", json=CHAT)
    assert plain.status_code == 200, plain.text
    given = client.post("/v1/chat/completions", json=CHAT | NEUTRAL)
    assert given.status_code == 200, given.text
    assert given.json()["choices"] == plain.json()["choices"]


EMBEDDINGS = [
    ("/v1/embeddings", {"dimensions": 4}, "unsupported_parameter", "dimensions"),
    ("/v1/embeddings", {"encoding_format": "hex"}, "invalid_value", "encoding_format"),
    ("/v1/embeddings", {"input": ""}, "invalid_value", "input"),
    ("/v1/embeddings", {"input": list("abcd")}, "invalid_value", "input"),
    ("/classify", {"input": [1, 2]}, "invalid_value", "input"),
    ("/classify", {"input": ["a", ""]}, "invalid_value", "input"),
    ("/classify", {"top_k": 3}, "unknown_parameter", "top_k"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "more", "code", "param"), EMBEDDINGS)
def test_vectors_and_labels_refuse(client: TestClient, path: str, more: dict[str, Any], code: str, param: str) -> None:
    assert said(client.post(path, json=VECTOR | more)) == (400, code, param)


BODIES = [
    (b"", "invalid_type"), (b"[]", "invalid_type"), (b'"text"', "invalid_type"), (b"null", "invalid_type"),
    (b"{", "invalid_json"), (b"\xff\xfe{}", "invalid_json"), (b'"\xff"', "invalid_request"),
    (b"[" * 2000, "invalid_request"),
    (b'{"model": ' + b"1" * 4400 + b"}", "invalid_request"),
    (b'{"model": "alpha", "prompt": "x", "temperature": NaN}', "invalid_value"),
    (b'{"model": "alpha", "prompt": "\\ud800"}', "invalid_value"), (b'{"\\ud800": 1, "model": 1}', None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code"), BODIES)
def test_bodies_that_are_no_request(client: TestClient, body: bytes, code: str | None) -> None:
    status, found, _ = said(client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"}))
    assert (status, found) == (400, code or found)


def test_a_body_of_another_type_is_not_read_as_json(client: TestClient) -> None:
    body = '{"model": "alpha", "prompt": "x"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = client.post("/v1/completions", content=body, headers={"Content-Type": kind})
        assert said(answer) == (400, "invalid_type", None)
    assert said(client.post("/v1/completions", content=body)) == (400, "invalid_type", None)


def test_paths_methods_and_models_that_are_not_there(client: TestClient) -> None:
    for path in ("/v1/nothing", "/docs", "/redoc", "/v1/models/", "/page/../app.py", "/page/%2e%2e/app.py", "/page/"):
        assert said(client.get(path)) == (404, "not_found", None), path
    assert said(client.get("/v1/completions")) == (405, "method_not_allowed", None)
    assert said(client.delete("/v1/models")) == (405, "method_not_allowed", None)
    for name in ("gamma", "..", "%2e%2e%2fetc", "ALPHA", "alpha%00", "x" * 3000):
        status, code, param = said(client.get(f"/v1/models/{name}"))
        assert (status, code) in ((404, "model_not_found"), (404, "not_found"))
        assert param in (None, "model")
    for path, body in (("/v1/completions", TEXT), ("/v1/chat/completions", CHAT), ("/v1/embeddings", VECTOR)):
        for name in ("gamma", "../alpha", "alpha\x00", ""):
            assert said(client.post(path, json=body | {"model": name})) == (404, "model_not_found", "model")
    long = client.post("/classify", json=VECTOR | {"model": "m" * 4000}).json()["error"]["message"]
    assert len(long) < 300


def test_a_fault_shows_nothing_of_the_inside(client: TestClient) -> None:
    answer = client.post("/classify", json=VECTOR | {"input": "!boom"})
    assert said(answer) == (500, "internal_error", None)
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_a_damaged_library_is_the_logs_business(caplog: pytest.LogCaptureFixture) -> None:
    def damaged() -> dict[str, Any]:
        raise LibraryError("/srv/library/library.json", "is not JSON")

    with TestClient(create_app(FakeService("alpha"), about=damaged), base_url="http://localhost") as client:
        answer = client.get("/library")
        assert said(answer) == (503, "library_unusable", None)
        assert "/srv" not in answer.text
        assert "/srv/library/library.json: is not JSON" in caplog.text
        assert client.get("/v1/models").status_code == 200
