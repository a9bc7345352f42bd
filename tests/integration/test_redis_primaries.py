"""Sentinels and a cluster: after a failover, events are acknowledged and handled again with nobody's help."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from shared.redis_client import open_client
from shared.redis_url import redis_url
from shared.registry import PUBLISH, Cipher, encode, field_of
from shared.wire import Names
from tests.certificates import make_certificate
from tests.conftest import SECRETS_KEY
from tests.ingress_process import SECRET, Process, endpoint, own_valkey, serving, wait_for
from tests.launching import free_port, spawn
from tests.moveris import completed
from tests.redis_failover import REDIS, Cluster, Node, cluster, watched
from workers.store import tenants

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from workers.store.connect import Connection

AGAIN_SECONDS = 10
PREFIX = "{webhooks}:"
NAMES = Names(PREFIX)


def publish(url: str) -> None:
    """Publish one endpoint as the workers do."""
    one = endpoint()
    with open_client(redis_url(url), seconds=5, prefix=PREFIX) as client:
        fields = (field_of(one.provider, one.tenant), encode(one))
        assert client.eval(PUBLISH, 1, NAMES.registry, 1, *fields) == 1


def length(url: str) -> int:
    with open_client(redis_url(url), seconds=5, prefix=PREFIX) as client:
        return int(client.xlen(NAMES.inbox))


def kill_owner(servers: Cluster) -> Node:
    """Kill the node of the inbox, and return it."""
    node = servers.owner(NAMES.inbox)
    assert node is not None
    node.kill()
    return node


def answers_again(ingress: Process, *, seconds: float = AGAIN_SECONDS) -> float:
    """Return the seconds until an event is acknowledged."""
    return wait_for(lambda: ingress.post(completed()).status_code == 200, seconds=seconds)


@pytest.mark.long
def test_events_are_acknowledged_again_when_sentinels_have_made_the_replica_the_primary() -> None:
    with watched() as servers:
        publish(servers.url)
        with serving(servers.url, REDIS_PREFIX=PREFIX) as ingress:
            assert ingress.post(completed()).status_code == 200
            servers.primary().kill()
            assert ingress.post(completed()).status_code == 503
            answers_again(ingress)
            assert length(servers.url) >= 1


@pytest.mark.long
def test_events_are_acknowledged_again_when_a_cluster_has_replaced_the_node_of_the_inbox() -> None:
    with cluster() as servers, own_valkey() as broker:
        publish(servers.url)
        settings: dict[str, Any] = {"INBOX_URL": servers.url, "BROKER_URL": broker.url, "REDIS_PREFIX": PREFIX}
        with serving("", **settings) as ingress, broker.client() as client:
            assert ingress.post(completed()).status_code == 200
            wait_for(lambda: client.llen(NAMES.ingest_queue) == 1, seconds=10)
            kill_owner(servers)
            assert ingress.post(completed()).status_code == 503
            answers_again(ingress)
            assert length(servers.url) >= 1


def test_an_event_that_too_few_replicas_have_received_is_not_acknowledged() -> None:
    # a busy machine must not make Sentinels replace a primary that is only slow: no failover is meant here
    with watched(down_after_milliseconds=120_000) as servers:
        publish(servers.url)
        (replica,) = (it for it in servers.nodes if it is not servers.primary())
        with serving(servers.url, REDIS_PREFIX=PREFIX, INBOX_WAIT_REPLICAS="1") as ingress:
            assert ingress.post(completed()).status_code == 200
            assert replica.popen is not None
            replica.popen.send_signal(signal.SIGSTOP)
            refused = ingress.post(completed())
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "inbox_unavailable")
            assert "retry-after" in refused.headers
            assert "1 replicas confirmed it in time" in ingress.log.read_text()
            replica.popen.send_signal(signal.SIGCONT)
            answers_again(ingress)


@pytest.fixture
def start_workers(start_workers: Callable[..., None], connection: Connection) -> Callable[..., None]:
    """Make an endpoint before the workers start."""
    tenants.add_tenant(connection, "acme")
    tenants.add_endpoint(
        connection,
        tenant="acme",
        provider="moveris",
        scheme="moveris",
        label="first",
        ciphertext=Cipher([SECRETS_KEY]).encrypt(SECRET),
    )
    return start_workers


def handled(connection: Connection) -> set[str]:
    rows = connection.execute("SELECT event_id FROM deliveries_done WHERE state = 'succeeded'")
    return {str(row["event_id"]) for row in rows}


def post_for(ingress: Process, seconds: float) -> tuple[set[str], int]:
    """Post one event after the other; return the ids of those that were acknowledged, and how many were not."""
    ids, refused, ends = set(), 0, time.monotonic() + seconds
    while time.monotonic() < ends:
        answer = ingress.post(completed())
        if answer.status_code == 200:
            ids.add(answer.json()["id"])
        else:
            assert answer.status_code == 503
            refused += 1
        time.sleep(0.01)
    return ids, refused


@pytest.mark.long
@pytest.mark.timeout(180)
def test_no_worker_ends_when_sentinels_fail_over_and_all_that_the_replica_had_is_handled(
    start_workers: Callable[..., None], connection: Connection
) -> None:
    with watched() as servers:
        settings = {"REDIS_URL": servers.url, "REDIS_PREFIX": PREFIX, "INBOX_WAIT_REPLICAS": "1"}
        start_workers(**settings)
        with serving(servers.url, **settings) as ingress:
            acknowledged, _ = post_for(ingress, 3)
            for _ in range(2):
                former = servers.primary()
                former.kill()
                wait_for(lambda gone=former: servers.primary() is not gone, seconds=20)  # type: ignore[misc]
                former.start()
                answers_again(ingress, seconds=60)  # Sentinels take ten seconds to make the killed one a replica
                more, _ = post_for(ingress, 3)
                acknowledged |= more
                wait_for(servers.is_whole, seconds=60)
            wait_for(lambda: handled(connection) >= acknowledged, seconds=60)


def flower_shows(flower: str, path: str, text: str) -> bool:
    """Say whether a page of Flower has a text."""
    with suppress(httpx.HTTPError):
        answer = httpx.get(f"{flower}{path}", timeout=20)
        return answer.status_code == httpx.codes.OK and text in answer.text
    return False


@pytest.mark.long
@pytest.mark.timeout(240)
def test_flower_shows_workers_and_queues_of_sentinels_after_a_failover_too(
    start_workers: Callable[..., None], database_url: str, tmp_path: Path
) -> None:
    with watched() as servers, ExitStack() as stack:
        settings = {"REDIS_URL": servers.url, "REDIS_PREFIX": PREFIX}
        start_workers(**settings)
        port = free_port()
        own = {"FLOWER_PORT": str(port), "FLOWER_USER": "test", "FLOWER_PASSWORD": "test", "DATABASE_URL": database_url}
        command = [sys.executable, "-m", "deploy.flower"]
        process = spawn(command, log=tmp_path / "flower.log", environ=os.environ | settings | own)
        stack.callback(process.wait)
        stack.callback(process.kill)
        shows = partial(flower_shows, f"http://test:test@127.0.0.1:{port}")
        wait_for(lambda: shows("/api/workers?refresh=1", "handlers@"), seconds=60)
        wait_for(lambda: shows("/broker", '<tr id="handlers">'), seconds=20)
        first = servers.primary()
        first.kill()
        wait_for(lambda: servers.primary() is not first, seconds=20)
        wait_for(lambda: shows("/broker", '<tr id="handlers">'), seconds=20)
        worker = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "ingest", "-c", "1"]
        environ = os.environ | settings | {"DATABASE_URL": database_url}
        later = spawn([*worker, "-n", "later@%h"], log=tmp_path / "later.log", environ=environ)
        stack.callback(later.wait)
        stack.callback(later.kill)
        wait_for(lambda: shows("/api/workers?refresh=1", "later@"), seconds=60)


needs_tls = pytest.mark.skipif(
    not REDIS, reason="needs a redis-server that knows TLS, such as the system's: the wheel's does not"
)


@needs_tls
@pytest.mark.long
def test_the_inbox_is_reached_by_tls_in_a_cluster(tmp_path: Path) -> None:
    with cluster(tls=make_certificate(tmp_path)) as servers:
        publish(servers.url)
        settings = {"INBOX_URL": servers.url, "BROKER_URL": "redis://127.0.0.1:1/0", "REDIS_PREFIX": PREFIX}
        with serving("", **settings) as ingress:
            assert ingress.post(completed()).status_code == 200
            assert length(servers.url) == 1
            kill_owner(servers)
            answers_again(ingress)


@needs_tls
@pytest.mark.long
@pytest.mark.timeout(180)
def test_inbox_and_broker_are_reached_by_tls_where_sentinels_say_and_after_a_failover_too(
    start_workers: Callable[..., None], connection: Connection, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path)
    with watched(tls=certificate) as servers:
        settings = {"REDIS_URL": servers.url, "REDIS_PREFIX": PREFIX}
        start_workers(**settings)
        with serving(servers.url, **settings) as ingress:
            acknowledged, _ = post_for(ingress, 2)
            wait_for(lambda: handled(connection) >= acknowledged, seconds=60)
            servers.primary().kill()
            answers_again(ingress)
            acknowledged, _ = post_for(ingress, 2)
            wait_for(lambda: handled(connection) >= acknowledged, seconds=60)
        plain = servers.url.replace("rediss", "redis").partition("?")[0]
        stranger = servers.url.partition("?")[0]
        for url in (plain, stranger):
            with serving(url, wait_until="/livez", REDIS_PREFIX=PREFIX) as ingress:
                assert ingress.post(completed()).status_code == 503


@pytest.mark.long
@pytest.mark.timeout(180)
def test_no_worker_ends_when_a_cluster_fails_over_and_all_that_the_replica_had_is_handled(
    start_workers: Callable[..., None], connection: Connection
) -> None:
    with cluster() as servers, own_valkey() as broker:
        settings = {"INBOX_URL": servers.url, "BROKER_URL": broker.url, "REDIS_PREFIX": PREFIX}
        settings["INBOX_WAIT_REPLICAS"] = "1"
        start_workers(**settings)
        with serving("", **settings) as ingress:
            acknowledged, _ = post_for(ingress, 3)
            former = kill_owner(servers)
            wait_for(lambda: servers.owner(NAMES.inbox) is not None, seconds=20)
            former.start()
            answers_again(ingress, seconds=60)  # Sentinels take ten seconds to make the killed one a replica
            more, _ = post_for(ingress, 3)
            acknowledged |= more
            wait_for(lambda: handled(connection) >= acknowledged, seconds=60)
