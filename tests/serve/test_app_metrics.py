"""What /metrics says: the service's totals, and HTTP's counts under routes, never under what clients make up."""

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from deltagram.serve.app import create_app
from fakeservice import FakeService, about


def read(client: TestClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels, as Prometheus' own parser reads them."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_totals_and_counts() -> None:
    service = FakeService("alpha")
    with TestClient(create_app(service, about=lambda: about("alpha")), base_url="http://localhost") as client:
        body = {"model": "alpha", "input": ["a", "b"]}
        assert client.post("/classify", json=body).status_code == 200
        assert client.post("/classify", json=body | {"input": "!queue_full"}).status_code == 429
        for path in ("/nothing", "/v1/models/gamma", "/v1/models/alpha", "/v1/models/base"):
            client.get(path)
        client.request("BREW", "/health")
        found = read(client)
    assert found["deltagram_requests_total", (("task", "classify"),)] == 2
    assert found["deltagram_refused_total", (("reason", "queue_full"),)] == 1
    assert found["deltagram_batches_total", (("way", "mixed"),)] == 3
    assert found["deltagram_engine_seconds_total", ()] == 1.5
    assert found["deltagram_base_bytes", ()] == 1000
    assert found["deltagram_http_in_flight", ()] == 1  # this one
    requests = {key[1]: value for key, value in found.items() if key[0] == "deltagram_http_requests_total"}
    assert requests == {
        (("method", "POST"), ("path", "/classify"), ("status", "200")): 1,
        (("method", "POST"), ("path", "/classify"), ("status", "429")): 1,
        (("method", "GET"), ("path", "other"), ("status", "404")): 1,
        (("method", "GET"), ("path", "/v1/models/{model}"), ("status", "404")): 1,
        (("method", "GET"), ("path", "/v1/models/{model}"), ("status", "200")): 2,
        (("method", "other"), ("path", "/health"), ("status", "405")): 1,
    }
    assert found["deltagram_http_request_seconds_count", (("path", "/classify"),)] == 2


def test_two_servers_count_apart() -> None:
    apps = [create_app(FakeService("alpha"), about=lambda: about("alpha")) for _ in range(2)]
    with (
        TestClient(apps[0], base_url="http://localhost") as one,
        TestClient(apps[1], base_url="http://localhost") as two,
    ):
        one.get("/health")
        key = ("deltagram_http_requests_total", (("method", "GET"), ("path", "/health"), ("status", "200")))
        assert read(one)[key] == 1
        assert key not in read(two)
