"""What monitoring reads: the service's totals and the HTTP door's counts, as Prometheus' text."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deltagram.serve.requests import Totals

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_METHODS: Final = frozenset({"GET", "HEAD", "POST"})
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
# name, what it is, field of Totals
_COUNTERS: Final = (
    ("deltagram_prompt_tokens", "Tokens of prompts.", "prompt_tokens"),
    ("deltagram_completion_tokens", "Tokens generated.", "completion_tokens"),
    ("deltagram_variant_loads", "Variants brought into memory.", "loads"),
    ("deltagram_variant_evictions", "Variants taken out of memory to make room.", "evictions"),
    ("deltagram_swaps", "Times another variant was put on the base.", "swaps"),
    ("deltagram_engine_seconds", "Seconds the engine worked.", "seconds"),
)
_GAUGES: Final = (
    ("deltagram_waiting", "Requests in the queue now.", "waiting"),
    ("deltagram_variants_loaded", "Variants in memory now.", "loaded"),
    ("deltagram_base_bytes", "Bytes of the base in memory.", "base_bytes"),
    ("deltagram_variant_bytes", "Bytes of all variants in memory.", "variant_bytes"),
)
_LABELLED: Final = (
    ("deltagram_requests", "Requests answered by the engine.", "requests", "task"),
    ("deltagram_refused", "Requests the engine refused.", "refused", "reason"),
    ("deltagram_batches", "Batches of the engine by the way they went.", "batches", "way"),
)


class Metrics:
    """Counts of one server, in a registry of its own. A path is counted under its route, any other as "other"."""

    def __init__(self, totals: Callable[[], Totals]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "deltagram_http_requests", "HTTP requests answered.", ("method", "path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "deltagram_http_request_seconds", "Seconds to the last byte of an answer.", ("path",),
            buckets=_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._inside = Gauge("deltagram_http_in_flight", "HTTP requests being answered now.", registry=self._registry)
        self._registry.register(_Engine(totals))

    def began(self) -> None:
        """A request came in."""
        self._inside.inc()

    def ended(self, method: str, path: str | None, *, status: int, seconds: float) -> None:
        """A request was answered, or its client left (499)."""
        self._inside.dec()
        route = path or "other"
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _Engine(Collector):
    """The service's totals as they are when they are read."""

    def __init__(self, totals: Callable[[], Totals]) -> None:
        self._totals = totals

    def describe(self) -> Iterable[Metric]:
        """No names ahead of the counts."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The families of one reading."""
        now = self._totals()
        for name, what, field in _COUNTERS:
            yield CounterMetricFamily(name, what, value=getattr(now, field))
        for name, what, field in _GAUGES:
            yield GaugeMetricFamily(name, what, value=getattr(now, field))
        for name, what, field, label in _LABELLED:
            family = CounterMetricFamily(name, what, labels=(label,))
            for value, count in sorted(getattr(now, field).items()):
                family.add_metric((value,), count)
            yield family
