"""The figures at `/metrics`, for Prometheus.

Names of VAEs come from the owner, never from a request, so the number of series is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

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

from backend.endpoint.batching import BatchingQueue
from backend.report import Cost

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """One registry a service, so that two in one process do not mix. The label `action` is the direction."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, queues: Callable[[], Sequence[BatchingQueue]]) -> None:
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
            "Peak memory of the latest computation: in VRAM all that torch holds, in RAM what it itself allocated.",
            ["vae", "action", "kind"],
            registry=self._registry,
        )
        self._registry.register(_QueueCollector(queues))

    def count_request(self, vae: str, action: str, status: int) -> None:
        self._requests.labels(vae, action, str(status)).inc()

    def count_work(
        self,
        vae: str,
        action: str,
        stages: Mapping[str, float],
        *,
        received: int,
        sent: int,
        cost: Cost,
    ) -> None:
        """One request that was computed: seconds by stage, bytes of both bodies, and its peak memory."""
        for stage, seconds in stages.items():
            self._seconds.labels(vae, action, stage).observe(seconds)
        self._bytes.labels(vae, action, "received").inc(received)
        self._bytes.labels(vae, action, "sent").inc(sent)
        if cost.peak_bytes is not None:
            self._peak.labels(vae, action, cost.memory_kind).set(cost.peak_bytes)

    def text(self) -> bytes:
        """The exposition, in Prometheus' text format."""
        return generate_latest(self._registry)


class _QueueCollector(Collector):
    """The queues' lengths at the moment they are asked for."""

    def __init__(self, queues: Callable[[], Sequence[BatchingQueue]]) -> None:
        self._queues = queues

    def collect(self) -> Iterable[Metric]:
        waiting = GaugeMetricFamily(
            "latent_relay_queue_length", "Requests waiting for a device.", labels=["device"]
        )
        inside = GaugeMetricFamily(
            "latent_relay_places_taken", "Requests inside, in any stage.", labels=["device"]
        )
        for index, queue in enumerate(self._queues()):
            waiting.add_metric([str(index)], queue.waiting)
            inside.add_metric([str(index)], queue.in_flight)
        return [waiting, inside]
