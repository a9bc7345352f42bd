"""What tenants cost: endpoints in the registry, and each with work that waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psutil

from deploy.local.servers import free_port
from shared.registry import Cipher
from tests.benchmarks.bodies import SECRET
from tests.benchmarks.fill import fill_pending
from tests.benchmarks.growth.backlog import SWEEPS, explain
from tests.benchmarks.growth.inside import Inside
from tests.benchmarks.growth.meter import Meter, cpu_of
from tests.benchmarks.processes import load, run_ours
from tests.benchmarks.rounds import wait_until
from workers import sweeper
from workers.publishing import publish

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground, Place

REQUESTS = 20_000
_ENDPOINTS = """
WITH made AS (
    INSERT INTO tenants (name) SELECT 'tenant-' || n FROM generate_series(0, %(count)s - 1) AS n RETURNING name
), opened AS (
    INSERT INTO endpoints (tenant, provider, scheme) SELECT name, 'moveris', '"moveris"' FROM made
)
SELECT count(*) FROM made
"""
_SECRETS = """
INSERT INTO endpoint_secrets (tenant, provider, label, ciphertext)
SELECT tenant, provider, 'a', %(ciphertext)s FROM endpoints
"""


def measure_tenants(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """The ingress and its registry, admission and the sweep, with 1 to 10,000 tenants."""
    del full
    meter = Meter(ground)
    rows = []
    for count in (1, 100, 10_000):
        with ground.fresh() as place:
            rows.append(_measure_ingress(place, meter, count))
        with ground.fresh() as place:
            _measure_dispatch(place, meter, count)
    results["tables"]["the ingress by endpoints in the registry"] = {
        "headings": [
            "endpoints",
            "memory, MB",
            "KB per endpoint",
            "publish, ms",
            "in use after, ms",
            "p99 at 500/s, ms",
        ],
        "rows": rows,
    }
    results["curves"]["request by endpoints"] = {
        "x": "endpoints in the registry",
        "y": "µs of CPU per request",
        "lines": {"ingress": meter.points("request")},
        "flat": True,
    }
    results["curves"]["delivery by lanes with work"] = {
        "x": "tenants with work",
        "y": "µs of CPU per delivery admitted",
        "lines": {"admit": meter.points("admit")},
        "flat": True,
    }
    results["curves"]["sweep by lanes with work"] = {
        "x": "tenants with work",
        "y": "µs of CPU per sweep",
        "lines": {"sweep": meter.points("sweep")},
        "flat": True,
    }


def _measure_ingress(place: Place, meter: Meter, count: int) -> list[str]:
    port = free_port()
    with place.connect() as connection:
        connection.execute(_ENDPOINTS, {"count": count})
        connection.execute(_SECRETS, {"ciphertext": Cipher([place.secrets_key]).encrypt(SECRET)})
        publish(connection, place.redis)
        with run_ours(place, "ingress", ingress_port=port) as pids:
            path = "/webhooks/moveris/tenant-*"
            load(
                "closed", port=port, count=max(2 * count, 2000), path=path, tenants=count
            )  # each secret decrypted once
            before = cpu_of(pids["ingress"])
            load("closed", port=port, count=REQUESTS, path=path, tenants=count)
            meter.note(("request", count), (cpu_of(pids["ingress"]) - before) / REQUESTS * 1e6)
            latency = load("opened", port=port, rate=500, seconds=2, path=path, tenants=count)
            memory = psutil.Process(pids["ingress"]).memory_full_info().uss / 1e6
            connection.execute("UPDATE registry_version SET version = version + 1")
            began = time.perf_counter()
            publish(connection, place.redis)
            published = time.perf_counter() - began
            # a new secret verifies nothing until the snapshot is there: watch for a tenant that is added now
            connection.execute("INSERT INTO tenants (name) VALUES ('late')")
            connection.execute(
                "INSERT INTO endpoints (tenant, provider, scheme) VALUES ('late', 'moveris', '\"moveris\"')"
            )
            connection.execute(
                _SECRETS + " WHERE tenant = 'late'", {"ciphertext": Cipher([place.secrets_key]).encrypt(SECRET)}
            )
            began = time.perf_counter()
            publish(connection, place.redis)
            wait_until(lambda: _is_open(port))
            in_use = time.perf_counter() - began
    per = (memory - 30) * 1000 / count if count >= 10_000 else 0
    return [
        f"{count:,}", f"{memory:.1f}", f"{per:.1f}" if per > 0 else "", f"{published * 1000:.0f}",
        f"{in_use * 1000:.0f}", f"{latency['p99']:.1f}",
    ]  # fmt: skip


def _is_open(port: int) -> bool:
    try:
        load("closed", port=port, count=1, connections=1, path="/webhooks/moveris/late")
    except RuntimeError:
        return False
    return True


def _measure_dispatch(place: Place, meter: Meter, count: int) -> None:
    inside = Inside(place)
    with place.connect() as connection:
        fill_pending(connection, 40_000, handler="bench.nothing", tenant="tenant-*", tenants=count)
        connection.execute("VACUUM ANALYZE deliveries")
        for _ in range(6):
            inside.run(inside.admit())
        for _ in range(10):
            messages: list[Any] = []
            cost = meter.measure(lambda m=messages: m.extend(inside.admit()))  # type: ignore[misc]
            meter.note(("admit", count), cost.cpu / sum(len(message.deliveries) for message in messages) * 1e6)
            inside.run(messages)

        def sweep() -> None:
            for _ in range(SWEEPS):
                sweeper.expire_leases(inside.link.connection, inside.handlers)
                sweeper.return_queued(inside.link.connection, queue_is_empty=False)

        sweep()
        meter.note(("sweep", count), meter.measure(sweep).cpu / SWEEPS * 1e6)
        explain(connection)
