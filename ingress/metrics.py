"""What the ingress counts, and the port that tells it. No label is one that callers choose, such as a path."""

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, start_http_server
from prometheus_client.process_collector import ProcessCollector

from ingress.settings import IngressSettings

log: Final = logging.getLogger(__name__)

ACCEPTED: Final = "accepted"
HANDSHAKES: Final = "handshake"
GONE: Final = "gone"

AGAIN_SECONDS: Final = 1.0
"""Between two attempts to find a free port."""


class Metrics:
    """The figures of one process. `requests` counts answers by the codes of refusals and the three above."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.requests = counter("ingress_requests", "Answers to webhook requests by code", ["code"])
        self.silent_bells = counter("ingress_silent_bells", "Doorbells that Redis refused")
        self.overflowed = counter(
            "ingress_overflowed", "Events that went to the overflow, beyond the burst of their tenant"
        )
        self.uncounted_batches = counter(
            "ingress_uncounted_batches", "Batches whose events could not be counted against limits of tenants"
        )
        self.overflow_length = gauge("ingress_overflow_length", "Entries in the overflow when last asked")
        self.waiting_bytes = gauge("ingress_waiting_bytes", "Bytes of events that wait for Redis")
        self.inbox_length = gauge("ingress_inbox_length", "Entries in the inbox when last asked")
        self.registry_version = gauge("ingress_registry_version", "Version of the registry in use, 0: none")
        self.redis_answers = gauge("ingress_redis_answers", "1 if Redis answered when last asked")
        self.flush_entries = histogram(
            "ingress_flush_entries",
            "Events appended in one round trip to Redis",
            buckets=[2**power for power in range(11)],
        )
        self.flush_seconds = histogram(
            "ingress_flush_seconds",
            "Duration of one round trip to Redis",
            buckets=[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1],
        )


async def serve(metrics: Metrics, settings: IngressSettings) -> None:
    """Serve `/metrics` on the first free port of as many as there are workers, until cancelled.

    Each process has a port of its own, so that a figure is never a mixture and none outlives its process. If none is
    free, one will be: a predecessor that still answers its last requests has it.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    ports = range(settings.metrics_port, settings.metrics_port + settings.workers) if settings.metrics_port else ()
    is_told = False
    while ports:
        for port in ports:
            with suppress(OSError):
                server, thread = start_http_server(port, settings.metrics_host, metrics.registry)
                log.info("metrics on port %d", port)
                try:
                    await asyncio.Event().wait()
                finally:
                    server.shutdown()
                    server.server_close()
                    thread.join()
        if not is_told:
            log.error("no port for metrics: %d to %d are taken; trying again", ports[0], ports[-1])
        is_told = True
        await asyncio.sleep(AGAIN_SECONDS)
