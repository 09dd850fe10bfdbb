"""What a server counts and times, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Metrics"]

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The numbers of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "clipsearch_requests", "Requests answered.", ("route", "status"), registry=self._registry
        )
        self._request_s = Histogram(
            "clipsearch_request_seconds",
            "Time from the first byte of a request to the last byte of its response.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._waited_s = Histogram(
            "clipsearch_queue_seconds",
            "Time that work waited for a thread.",
            ("queue",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._worked_s = Histogram(
            "clipsearch_work_seconds",
            "Time that work took in its thread.",
            ("queue",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batch = Histogram(
            "clipsearch_batch",
            "Texts or pictures per encoder call, or queries per search.",
            ("kind",),
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        self._thumbnails = Counter(
            "clipsearch_thumbnails",
            "Thumbnails by result: kept (cached), made or failed.",
            ("result",),
            registry=self._registry,
        )
        self._reloads = Counter(
            "clipsearch_reloads", "New index generations opened.", ("index", "result"), registry=self._registry
        )
        self.generation = Gauge(
            "clipsearch_index_generation", "Index generation being served.", ("index",), registry=self._registry
        )
        self.pictures = Gauge("clipsearch_index_pictures", "Searchable pictures.", ("index",), registry=self._registry)
        self.unfinished = Gauge(
            "clipsearch_unfinished", "Work items running or waiting.", ("queue",), registry=self._registry
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._request_s.labels(route).observe(seconds)

    def work(self, queue: str, waited_s: float, worked_s: float) -> None:
        self._waited_s.labels(queue).observe(waited_s)
        self._worked_s.labels(queue).observe(worked_s)

    def batch(self, kind: str, items: int) -> None:
        self._batch.labels(kind).observe(items)

    def thumbnail(self, result: str) -> None:
        self._thumbnails.labels(result).inc()

    def reload(self, index: str, result: str) -> None:
        self._reloads.labels(index, result).inc()

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self._registry)
