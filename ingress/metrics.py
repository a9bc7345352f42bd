"""What the ingress counts, and the port that tells it.

Guarantees: counting a request is adding one to a plain integer; Prometheus' own objects are made when it asks.
Refuses: labels that callers choose (tenant names are ours, paths are theirs).
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.core import Metric

log: Final = logging.getLogger(__name__)

ACCEPTED: Final = "accepted"
HANDSHAKES: Final = "handshake"

AGAIN_SECONDS: Final = 1.0
"""Between two attempts to find a free port."""


class Tally:
    """Counts values by size; Prometheus' own histogram takes 5 us for each, ten times as long."""

    def __init__(self, *bounds: float) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return how many were at most as large as each bound, as Prometheus wants them."""
        names = (*(str(float(bound)) for bound in self._bounds), "+Inf")
        return list(zip(names, accumulate(self._counts), strict=True))


class Counts(Collector):
    """The figures of one process.

    Attributes:
        requests: answers by code; "accepted" are the acknowledged ones, "handshake" the answers to questions of
            providers, "gone" the clients that left before.
        waiting_bytes: held now, waiting for Redis.
        silent_bells: doorbells that Redis refused to ring; the sweeper makes up for them.
        inbox_length: entries in the stream when Redis was last asked.
        registry_version: of the snapshot in use.
        flush_entries: events of each round trip to Redis.
        flush_seconds: how long it took.
    """

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.waiting_bytes = 0
        self.silent_bells = 0
        self.inbox_length = 0
        self.registry_version = 0
        self.redis_answers = False
        self.registry = CollectorRegistry()
        self.flush_entries = Tally(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
        self.flush_seconds = Tally(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the plain figures as Prometheus wants them."""
        requests = CounterMetricFamily("ingress_requests", "Answers to webhook requests by code", labels=["code"])
        for code, count in list(self.requests.items()):
            requests.add_metric([code], count)
        yield requests
        yield CounterMetricFamily("ingress_silent_bells", "Doorbells that Redis refused", value=self.silent_bells)
        for name, about, value in (
            ("ingress_waiting_bytes", "Bytes of events that wait for Redis", self.waiting_bytes),
            ("ingress_inbox_length", "Entries in the inbox when last asked", self.inbox_length),
            ("ingress_registry_version", "Version of the registry in use, 0: none", self.registry_version),
            ("ingress_redis_answers", "1 if Redis answered when last asked", int(self.redis_answers)),
        ):
            yield GaugeMetricFamily(name, about, value=value)
        for name, about, tally in (
            ("ingress_flush_entries", "Events appended in one round trip to Redis", self.flush_entries),
            ("ingress_flush_seconds", "Duration of one round trip to Redis", self.flush_seconds),
        ):
            yield HistogramMetricFamily(name, about, buckets=tally.buckets(), sum_value=tally.total)


async def serve(counts: Counts, *, host: str, first_port: int, workers: int) -> None:
    """Serve `/metrics` on the first free port of `workers` many, until cancelled.

    Each process has a port of its own, so that a figure is never a mixture and none outlives its process. If none is
    free, one will be: a predecessor that still answers its last requests has it.
    """
    ports = range(first_port, first_port + workers)
    is_told = False
    while (taken := _take(counts, host, ports)) is None:
        if not is_told:
            log.error("no port for metrics: %d to %d are taken; trying again", ports[0], ports[-1])
        is_told = True
        await asyncio.sleep(AGAIN_SECONDS)
    server, thread = taken
    try:
        await asyncio.Event().wait()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _take(counts: Counts, host: str, ports: Iterable[int]) -> tuple[WSGIServer, Thread] | None:
    for port in ports:
        try:
            taken = start_http_server(port, host, counts.registry)
        except OSError:
            continue
        log.info("metrics on port %d", port)
        return taken
    return None
