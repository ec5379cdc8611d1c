"""What GET /metrics tells Prometheus, in its text format 0.0.4.

    recsys_requests_total{route, status}    requests; `route` is a path of ours or "other"
    recsys_request_seconds{route}           histogram: from the headers' arrival to the last byte of the answer
    recsys_batch_rows                       histogram: rows or candidates of a request
    recsys_rows_total                       rows that were encoded
    recsys_values_total{feature}            values of a feature, and how many of them were
    recsys_unknown_values_total{feature}    never seen in training
    recsys_missing_values_total{feature}    missing
    recsys_cut_lists_total{feature}         longer than the feature's max_length

and the process's memory, time and files as prometheus_client names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from recsys.data.inputs import Counts

__all__ = ["Metrics"]

_SECONDS = (2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


class Metrics:
    """Counts requests and rows; what the encoder counted is read when it is asked for.

    Args:
        counts: Of the session.
    """

    media_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, counts: Callable[[], Counts]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("recsys_requests", "Requests.", ("route", "status"), registry=self._registry)
        self._seconds = Histogram(
            "recsys_request_seconds", "Latency.", ("route",), buckets=_SECONDS, registry=self._registry
        )
        self._rows = Histogram("recsys_batch_rows", "Rows of a request.", buckets=_ROWS, registry=self._registry)
        self._registry.register(_Encoded(counts))
        ProcessCollector(registry=self._registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one that was answered."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def rows(self, rows: int) -> None:
        """Count the rows of one that is computed."""
        self._rows.observe(rows)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)


class _Encoded(Collector):
    def __init__(self, counts: Callable[[], Counts]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        counts = self._counts()
        yield CounterMetricFamily("recsys_rows", "Rows that were encoded.", value=counts.rows)
        for name, about, found in (
            ("recsys_values", "Values of a feature.", counts.values),
            ("recsys_unknown_values", "Values never seen in training.", counts.unknown),
            ("recsys_missing_values", "Missing values.", counts.missing),
            ("recsys_cut_lists", "Lists longer than max_length.", counts.cut),
        ):
            family = CounterMetricFamily(name, about, labels=("feature",))
            for feature, n in list(found.items()):  # a copy: another thread may add a feature meanwhile
                family.add_metric((feature,), n)
            yield family
