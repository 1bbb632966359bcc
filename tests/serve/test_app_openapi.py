"""A thousand malformed requests made from our own API description: no 500, and every answer is as described."""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from deltagram.serve.app import create_app
from deltagram.serve.app_hosts import hosts_of
from deltagram.serve.app_keys import Keys
from fakeservice import FakeService, about

ADMIN = "the-key-to-load"
APP = create_app(
    FakeService("alpha"), about=lambda: about("alpha"), keys=Keys(admin=ADMIN),
    hosts=hosts_of("127.0.0.1", more=["testserver"]),
)  # fmt: skip
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
POSTS = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/classify")
NAMED = (("GET", "/v1/models/{model}"), ("POST", "/v1/variants/{name}/load"), ("POST", "/v1/variants/{name}/unload"))
SHAPES = [not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
          response_schema_conformance]  # fmt: skip
SLOW_TO_MAKE = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def settled(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, database=None, suppress_health_check=SLOW_TO_MAKE)


@pytest.mark.parametrize("path", POSTS)
def test_malformed_requests(path: str) -> None:
    statuses: Counter[int] = Counter()

    @given(case=SCHEMA[path]["POST"].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @settled(250)
    def run(case: Any) -> None:
        response = case.call()
        statuses[response.status_code] += 1
        case.validate_response(response)  # that it was refused, too

    run()
    assert statuses.total() >= 250
    assert set(statuses) <= {400, 404, 405}


@pytest.mark.parametrize("path", POSTS)
def test_requests_for_a_model_that_is_there(path: str) -> None:
    statuses: Counter[int] = Counter()

    @given(case=SCHEMA[path]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE))
    @settled(60)
    def run(case: Any) -> None:
        case.body = {**case.body, "model": "alpha"}
        response = case.call()
        statuses[response.status_code] += 1
        case.validate_response(response, checks=SHAPES)

    run()
    assert set(statuses) <= {200, 400}  # 400: past a limit, which the description does not have
    assert statuses[200] > 10


@pytest.mark.parametrize(("method", "path"), NAMED)
def test_names_that_clients_make_up(method: str, path: str) -> None:
    @given(case=SCHEMA[path][method].as_strategy())
    @settled(60)
    def run(case: Any) -> None:
        response = case.call(headers={"Authorization": f"Bearer {ADMIN}"})
        case.validate_response(response, checks=SHAPES)

    run()


@pytest.mark.parametrize("path", ["/v1/models", "/library", "/health", "/metrics"])
def test_what_is_read_is_as_described(path: str) -> None:
    case = SCHEMA[path]["GET"].Case()
    response = case.call()
    assert response.status_code == 200
    case.validate_response(response, checks=SHAPES)


def test_the_description_has_the_error_and_no_other() -> None:
    described = APP.openapi()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            codes = set(operation["responses"])
            assert codes == {"200", "4XX", "5XX"}, (path, method)
            for code in ("4XX", "5XX"):
                schema = operation["responses"][code]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}
            assert operation["security"] == [{"HTTPBearer": []}]
    assert "HTTPValidationError" not in described["components"]["schemas"]
