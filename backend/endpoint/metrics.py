"""What `/metrics` tells Prometheus. Names of VAEs come from the owner, never from a request, so series are bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from backend.endpoint.batching import Lane

if TYPE_CHECKING:
    from backend.endpoint.service import Reply

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """A registry of its own for each service, so that two in one process do not mix."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, lanes: Callable[[], Sequence[Lane]]) -> None:
        self._registry = CollectorRegistry()
        prefix = "latent_relay_"
        self._requests = Counter(
            f"{prefix}requests", "Requests answered.", ["vae", "action", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            f"{prefix}stage_seconds",
            "Seconds a request spent in each stage.",
            ["vae", "action", "stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._bytes = Counter(
            f"{prefix}bytes", "Bytes of bodies.", ["vae", "action", "direction"], registry=self._registry
        )
        self._peak = Gauge(
            f"{prefix}peak_memory_bytes",
            "Peak memory of the latest computation: VRAM allocated, or this process's RAM.",
            ["vae", "action", "kind"],
            registry=self._registry,
        )
        self._registry.register(_Queues(lanes))

    def count_request(self, vae: str, action: str, status: int) -> None:
        self._requests.labels(vae, action, str(status)).inc()

    def count_work(self, vae: str, action: str, received: int, reply: Reply) -> None:
        for stage, seconds in reply.stages.items():
            self._seconds.labels(vae, action, stage).observe(seconds)
        self._bytes.labels(vae, action, "received").inc(received)
        self._bytes.labels(vae, action, "sent").inc(len(reply.body))
        if reply.cost.peak_bytes is not None:
            self._peak.labels(vae, action, reply.cost.memory_kind).set(reply.cost.peak_bytes)

    def text(self) -> bytes:
        """The exposition, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Queues(Collector):
    """Read when asked for, so that nothing must be kept in step."""

    def __init__(self, lanes: Callable[[], Sequence[Lane]]) -> None:
        self._lanes = lanes

    def collect(self) -> Iterable[Metric]:
        waiting = GaugeMetricFamily(
            "latent_relay_queue_length", "Requests waiting for a device.", labels=["device"]
        )
        inside = GaugeMetricFamily(
            "latent_relay_places_taken", "Requests inside, in any stage.", labels=["device"]
        )
        for index, lane in enumerate(self._lanes()):
            waiting.add_metric([str(index)], lane.waiting)
            inside.add_metric([str(index)], lane.occupied)
        return [waiting, inside]
