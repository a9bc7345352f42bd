"""What tenants cost: endpoints in the registry, and each with work that waits."""

from __future__ import annotations

import socket
import time
import uuid
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil

from shared.registry import Cipher
from tests.benchmarks.answers import Answers
from tests.benchmarks.bodies import SECRET, make_body, make_request
from tests.benchmarks.growth.backlog import Backlog
from tests.benchmarks.growth.meter import Meter, cpu_of
from tests.benchmarks.growth.plans import explain
from tests.benchmarks.measuring import wait_until
from tests.benchmarks.processes import load, run_ours
from tests.launching import free_port
from tests.names import NAMES
from workers.housekeeping.publishing import Publisher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.ground import Ground, Place
    from workers.store.connect import Connection

REQUESTS = 10_000
ROUNDS = 5
PENDING = 40_000
LEAST_REFRESHED = 1_000
"""Endpoints from which on a refresh is mostly theirs: with 100, what it costs anyway is as much, and its noise too."""
PATH = "/webhooks/moveris/tenant-*"
HEADINGS = ("endpoints", "memory, MB", "p50 at 500/s, ms", "p99, ms", "publish, ms", "in use after, ms")
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
    del full  # the last point is cheap
    meter = Meter(ground)
    with ExitStack() as stack:
        counts = (1, 100, 1_000, 10_000)
        places = [stack.enter_context(ground.fresh(number)) for number in range(len(counts))]
        ingresses = [stack.enter_context(_open(place, count)) for place, count in zip(places, counts, strict=True)]
        for _ in range(ROUNDS):
            for ingress in ingresses:
                ingress.measure(meter)
        rows = [ingress.look() for ingress in ingresses]
    with ExitStack() as stack:
        backlogs = {
            count: Backlog(stack.enter_context(ground.fresh()), PENDING, tenant="tenant-*", tenants=count)
            for count in counts
        }
        for number in range(ROUNDS + 2):
            kept = meter if number > 1 else Meter(ground)  # plans are made once, after five runs
            for count, backlog in backlogs.items():
                backlog.measure(kept, count)
        results["plans"] = {
            f"{count:,} tenants": explain(it.inside.postgres.connection) for count, it in backlogs.items()
        }
    results["tables"]["the ingress by endpoints in the registry"] = {"headings": HEADINGS, "rows": rows}
    for title, x, y, names in (
        ("request by endpoints", "endpoints in the registry", "µs of CPU per request", ("request",)),
        ("endpoint by endpoints", "endpoints in the registry", "µs of CPU per endpoint refreshed", ("refresh",)),
        ("delivery by lanes with work", "tenants with work", "µs of CPU per delivery", ("admit", "run and record")),
        ("sweep by lanes with work", "tenants with work", "µs of CPU per sweep", ("sweep",)),
    ):
        lines = {
            name: [it for it in meter.points(name) if name != "refresh" or it[0] >= LEAST_REFRESHED] for name in names
        }
        results["curves"][title] = {"x": x, "y": y, "lines": lines, "flat": True}


@contextmanager
def _open(place: Place, count: int) -> Iterator[_Ingress]:
    """Run an ingress whose registry has so many endpoints."""
    port = free_port()
    with place.connect() as connection:
        connection.execute(_ENDPOINTS, {"count": count})
        connection.execute(_SECRETS, {"ciphertext": Cipher([place.secrets_key]).encrypt(SECRET)})
        Publisher(place.redis, NAMES, environment="").publish(connection)
        with run_ours(place, "ingress", ingress_port=port) as pids:
            ingress = _Ingress(place, connection, port, pids["ingress"], count)
            ingress.load(max(2 * count, 2000))  # each secret is decrypted once
            yield ingress


class _Ingress:
    """One process and its registry."""

    def __init__(self, place: Place, connection: Connection, port: int, pid: int, count: int) -> None:
        self._place = place
        self._connection = connection
        self._port = port
        self._pid = pid
        self._count = count
        self._published: list[float] = []
        self._in_use: list[float] = []

    def load(self, count: int) -> None:
        """Post to all tenants in turn."""
        load("closed", port=self._port, count=count, path=PATH, tenants=self._count)

    def measure(self, meter: Meter) -> None:
        """Measure requests, then a refresh of the whole registry."""
        before = cpu_of(self._pid)
        self.load(REQUESTS)
        served = cpu_of(self._pid)
        meter.note(("request", self._count), (served - before) / REQUESTS * 1e6)
        # a tenant that is added now is served as soon as the new snapshot is there
        late = f"late-{len(self._in_use)}"
        self._connection.execute("INSERT INTO tenants (name) VALUES (%s)", [late])
        self._connection.execute(
            "INSERT INTO endpoints (tenant, provider, scheme) VALUES (%s, 'moveris', '\"moveris\"')", [late]
        )
        self._connection.execute(
            f"{_SECRETS} WHERE tenant = %(late)s",
            {"ciphertext": Cipher([self._place.secrets_key]).encrypt(SECRET), "late": late},
        )
        began, before = time.perf_counter(), cpu_of(self._pid)
        publisher = Publisher(self._place.redis, NAMES, environment="")
        cost = meter.measure(lambda: publisher.publish(self._connection))
        self._published.append(time.perf_counter() - began)
        with socket.create_connection(("127.0.0.1", self._port)) as client:
            wait_until(lambda: _is_served(client, late))
        self._in_use.append(time.perf_counter() - began)
        refreshed = cost.cpu + cpu_of(self._pid) - before
        if self._count == 1:
            meter.note("fixed", refreshed)
        else:
            fixed = median(meter.costs["fixed"])
            meter.note(("refresh", self._count), (refreshed - fixed) / (self._count - 1) * 1e6)

    def look(self) -> list[str]:
        """Return a row of what cannot be a ratio."""
        latency = load("opened", port=self._port, rate=500, seconds=2, path=PATH, tenants=self._count)
        memory = psutil.Process(self._pid).memory_full_info().uss / 1e6
        return [
            f"{self._count:,}", f"{memory:.1f}", f"{latency['p50']:.1f}", f"{latency['p99']:.1f}",
            f"{median(self._published) * 1000:.0f}", f"{median(self._in_use) * 1000:.0f}",
        ]  # fmt: skip


def _is_served(client: socket.socket, tenant: str) -> bool:
    answers = Answers()
    client.sendall(make_request(make_body(uuid.uuid4().hex), f"/webhooks/moveris/{tenant}"))
    while (status := answers.read(client)) is None:
        pass
    return status == b"200"
