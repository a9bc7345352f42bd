"""Redis stopped, paused, full and back: 503 within a second each, and nothing to restart."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from shared.wire import INGEST_QUEUE
from tests.ingress_process import (
    Process,
    Valkey,
    answers,
    endpoint,
    inbox,
    own_valkey,
    publish,
    read_answer,
    request,
    serving,
    wait_for,
)
from tests.names import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def one_valkey() -> Iterator[Valkey]:
    with own_valkey() as it:
        publish(it.url, 1, endpoint())
        yield it


@pytest.fixture(scope="module")
def one_ingress(one_valkey: Valkey) -> Iterator[Process]:
    with serving(one_valkey.url) as it:
        yield it


@pytest.fixture
def valkey(one_valkey: Valkey) -> Valkey:
    """The one Valkey of these tests, running and with an empty inbox."""
    one_valkey.start()
    with one_valkey.client() as client:
        client.delete(NAMES.inbox, INGEST_QUEUE, NAMES.bell)
    return one_valkey


@pytest.fixture
def ingress(valkey: Valkey, one_ingress: Process) -> Process:
    """One process that goes through all of these tests: it must recover from each."""
    del valkey
    wait_for(lambda: answers(one_ingress, "/readyz"), seconds=5)
    wait_for(lambda: is_acknowledged(one_ingress, WARM_UP), seconds=5)
    return one_ingress


WARM_UP = b"warm-up"


def bodies(valkey: Valkey) -> list[bytes]:
    return [entry.body for entry in inbox(valkey.url) if entry.body != WARM_UP]


def is_acknowledged(ingress: Process, body: bytes = b"{}") -> bool:
    """Post; say whether it was acknowledged, and see that it was else refused as it should be."""
    started = time.monotonic()
    answer = ingress.post(body)
    took = time.monotonic() - started
    assert took < 1.2, f"answered after {took:.2f} s"  # a second, and what this process adds
    if answer.status_code == 200:
        return True
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "inbox_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    return False


def test_with_redis_stopped_each_is_503_at_once_and_all_flows_after_its_return(
    valkey: Valkey, ingress: Process
) -> None:
    assert is_acknowledged(ingress, b"before")
    valkey.stop()
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: is_acknowledged(ingress), range(40)))
    wait_for(lambda: not answers(ingress, "/readyz"), seconds=3)
    assert answers(ingress, "/livez")
    valkey.start()
    wait_for(lambda: is_acknowledged(ingress, b"after"), seconds=5)
    wait_for(lambda: answers(ingress, "/readyz"), seconds=3)
    assert bodies(valkey) == [b"before", b"after"]


def test_a_restart_of_redis_between_two_events_costs_neither(valkey: Valkey, ingress: Process) -> None:
    assert is_acknowledged(ingress)
    valkey.stop()
    valkey.start()
    assert is_acknowledged(ingress)


def test_with_redis_paused_each_is_503_within_a_second_and_all_flows_after_its_return(
    valkey: Valkey, ingress: Process
) -> None:
    assert is_acknowledged(ingress)
    valkey.signal(signal.SIGSTOP)
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: is_acknowledged(ingress), range(24)))
    valkey.signal(signal.SIGCONT)
    wait_for(lambda: is_acknowledged(ingress), seconds=5)


def test_an_ingress_that_starts_without_redis_is_not_ready_until_redis_comes(valkey: Valkey) -> None:
    valkey.stop()
    with serving(valkey.url, wait_until="/livez") as ingress:
        assert not answers(ingress, "/readyz")
        assert not is_acknowledged(ingress)
        valkey.start()
        wait_for(lambda: answers(ingress, "/readyz"), seconds=3)
        assert is_acknowledged(ingress)


def test_beyond_the_high_water_events_are_503_while_celery_can_still_write(valkey: Valkey, ingress: Process) -> None:
    with valkey.client() as client:
        assert is_acknowledged(ingress)
        ballast = [f"ballast:{number}" for number in range(50)]
        for name in ballast:
            client.set(name, b"x" * 2**20)  # 50 of 64 MB: above 75 %
        wait_for(lambda: not is_acknowledged(ingress), seconds=2)
        with ingress.connect() as connection:
            for _ in range(2):  # one that arrives whole, and the connection goes on behind it
                connection.sendall(request(b"{}"))
                answer = read_answer(connection)
                assert answer.startswith(b"HTTP/1.1 503")
                assert b"retry-after: 5\r\n" in answer
        assert client.lpush(INGEST_QUEUE, "Celery's own") >= 1
        client.delete(*ballast)
        wait_for(lambda: is_acknowledged(ingress), seconds=2)


def test_large_events_do_not_overrun_the_high_water_between_two_looks(valkey: Valkey, ingress: Process) -> None:
    body = b"x" * 2**20
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: is_acknowledged(ingress, body), range(80)))
    assert any(outcomes)
    assert not all(outcomes)
    with valkey.client() as client:
        assert client.info("memory")["used_memory"] < 0.85 * 64 * 2**20


def test_a_redis_that_refuses_writes_is_503(valkey: Valkey, ingress: Process) -> None:
    with valkey.client() as client:
        client.config_set("min-replicas-to-write", 1)
        assert not is_acknowledged(ingress)
        client.config_set("min-replicas-to-write", 0)
    assert is_acknowledged(ingress)


def test_a_doorbell_that_cannot_ring_refuses_nothing(valkey: Valkey, ingress: Process) -> None:
    with valkey.client() as client:
        client.delete(INGEST_QUEUE, NAMES.bell)
        client.set(INGEST_QUEUE, "no list")
        assert is_acknowledged(ingress, b"silent")
        client.delete(INGEST_QUEUE, NAMES.bell)
        assert bodies(valkey) == [b"silent"]
        assert is_acknowledged(ingress)
        wait_for(lambda: client.llen(INGEST_QUEUE) >= 1, seconds=5)  # quiet for some ms after the bell before


def test_an_inbox_of_another_type_is_503_and_its_repair_is_enough(valkey: Valkey, ingress: Process) -> None:
    with valkey.client() as client:
        client.delete(NAMES.inbox)
        client.set(NAMES.inbox, "no stream")
        assert not is_acknowledged(ingress)
        client.delete(NAMES.inbox)
    assert is_acknowledged(ingress)


def test_no_more_than_the_bound_waits_for_redis(valkey: Valkey) -> None:
    with serving(valkey.url, INGRESS_WAITING_BYTES="1000000", INBOX_TIMEOUT="0.95") as ingress:
        valkey.signal(signal.SIGSTOP)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: timed(ingress, b"x" * 300_000), range(8)))
        valkey.signal(signal.SIGCONT)
        assert {status for status, _ in answers} == {503}
        assert sum(took < 0.5 for _, took in answers) >= 4, "three fit into the bound, the others are refused at once"


def timed(ingress: Process, body: bytes) -> tuple[int, float]:
    started = time.monotonic()
    return ingress.post(body).status_code, time.monotonic() - started
