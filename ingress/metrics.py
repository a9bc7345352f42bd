"""What the ingress counts, and the port that serves it.

No label holds a text that a caller chose: names of tenants are ours, paths are not.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.process_collector import ProcessCollector

if TYPE_CHECKING:
    from collections.abc import Iterable
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

log: Final = logging.getLogger(__name__)

ACCEPTED: Final = "accepted"
HANDSHAKES: Final = "handshake"

AGAIN_SECONDS: Final = 1.0
"""Between two attempts to find a free port."""


class Metrics:
    """The figures of one process.

    Attributes:
        requests: answers by code; "accepted" are the acknowledged ones, "handshake" the answers to questions of
            providers, "gone" the clients that left before.
        silent_bells: doorbells that Redis refused to ring; the sweeper makes up for them.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("ingress_requests", "Answers to webhook requests by code", ["code"], registry=registry)
        self.silent_bells = Counter("ingress_silent_bells", "Doorbells that Redis refused", registry=registry)
        self.waiting_bytes = Gauge("ingress_waiting_bytes", "Bytes of events that wait for Redis", registry=registry)
        self.inbox_length = Gauge("ingress_inbox_length", "Entries in the inbox when last asked", registry=registry)
        self.registry_version = Gauge(
            "ingress_registry_version", "Version of the registry in use, 0: none", registry=registry
        )
        self.redis_answers = Gauge("ingress_redis_answers", "1 if Redis answered when last asked", registry=registry)
        self.flush_entries = Histogram(
            "ingress_flush_entries",
            "Events appended in one round trip to Redis",
            buckets=[2**power for power in range(11)],
            registry=registry,
        )
        self.flush_seconds = Histogram(
            "ingress_flush_seconds",
            "Duration of one round trip to Redis",
            buckets=[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1],
            registry=registry,
        )


async def serve(metrics: Metrics, *, host: str, first_port: int, workers: int) -> None:
    """Serve `/metrics` on the first free port of `workers` many, until cancelled.

    Each process has a port of its own, so that a figure is never a mixture and none outlives its process. If none is
    free, one will be: a predecessor that still answers its last requests has it.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    ports = range(first_port, first_port + workers)
    is_told = False
    while (taken := _take(metrics, host, ports)) is None:
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


def _take(metrics: Metrics, host: str, ports: Iterable[int]) -> tuple[WSGIServer, Thread] | None:
    for port in ports:
        try:
            taken = start_http_server(port, host, metrics.registry)
        except OSError:
            continue
        log.info("metrics on port %d", port)
        return taken
    return None
