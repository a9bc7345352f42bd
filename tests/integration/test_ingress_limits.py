"""Limits of tenants, seen from outside: ingress processes, a real Redis, and the registry as the workers publish it."""

from __future__ import annotations

import itertools
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from shared import envelope
from shared.registry import Limits
from shared.wire import INGEST_QUEUE
from tests.ingress_process import (
    CLIENT,
    Process,
    Valkey,
    endpoint,
    own_valkey,
    publish,
    read_answer,
    request,
    serving,
    wait_for,
)
from tests.launching import free_port
from tests.names import NAMES
from workers.ingest.inbox_reader import InboxReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

QUIET = "/webhooks/moveris/quiet"
VERSIONS = itertools.count(1)


@pytest.fixture(scope="module")
def one_valkey() -> Iterator[Valkey]:
    with own_valkey() as it:
        yield it


@pytest.fixture
def valkey(one_valkey: Valkey) -> Valkey:
    with one_valkey.client() as client:
        client.flushall()
    return one_valkey


@contextmanager
def limited(valkey: Valkey, limits: Limits, **settings: str) -> Iterator[Process]:
    """Run an ingress with a limited tenant, "acme", and one without limits, "quiet"."""
    publish(valkey.url, next(VERSIONS), replace(endpoint(), limits=limits), endpoint(tenant="quiet"))
    with serving(valkey.url, **settings) as ingress:
        yield ingress


def send(ingress: Process, count: int) -> list[bytes]:
    """Send events of the limited tenant one after the other on one connection; return the answers."""
    answers = []
    with ingress.connect() as connection:
        for number in range(count):
            connection.sendall(request(b"%d" % number))
            answers.append(read_answer(connection))
    return answers


def codes(answers: list[bytes]) -> list[int]:
    return [int(answer.split()[1]) for answer in answers]


def counted(valkey: Valkey) -> dict[str, int]:
    with valkey.client() as client:
        return {stream: client.xlen(stream) for stream in NAMES.streams}


def metric(port: int, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", CLIENT.get(f"http://127.0.0.1:{port}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_events_over_the_rate_are_answered_429_with_the_seconds_to_wait(valkey: Valkey) -> None:
    with limited(valkey, Limits(rate=0.2, burst=5)) as ingress:
        assert codes(send(ingress, 8)) == [200] * 5 + [429] * 3
        answer = ingress.post(b"one more")
        assert answer.json()["error"]["code"] == "rate_limited"
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        assert ingress.post(path=QUIET).status_code == 200, "other tenants have no part in it"
        assert ingress.post(headers={}).status_code == 401, "a stranger does not learn of it"
    assert sum(counted(valkey).values()) == 6


def test_an_event_is_taken_again_when_the_announced_seconds_are_over(valkey: Valkey) -> None:
    with limited(valkey, Limits(rate=2)) as ingress:
        answers = [ingress.post(b"%d" % number) for number in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        wait_for(lambda: ingress.post().status_code == 200, seconds=int(answers[2].headers["retry-after"]) + 0.5)


def test_without_a_burst_a_rate_allows_what_one_second_brings(valkey: Valkey) -> None:
    with limited(valkey, Limits(rate=0.01)) as ingress:
        assert codes(send(ingress, 3)) == [200, 429, 429]


def test_limits_are_followed_without_a_restart(valkey: Valkey) -> None:
    with limited(valkey, Limits(rate=0.01)) as ingress:
        assert codes(send(ingress, 2)) == [200, 429]
        publish(valkey.url, next(VERSIONS), endpoint())
        wait_for(lambda: ingress.post().status_code == 200, seconds=2)
        assert codes(send(ingress, 20)) == [200] * 20


def test_the_rate_holds_over_all_processes_within_five_percent(valkey: Valkey) -> None:
    rate, seconds = 200, 5.0
    with ExitStack() as stack:
        processes = [stack.enter_context(limited(valkey, Limits(rate=rate, burst=rate))) for _ in range(3)]
        pool = stack.enter_context(ThreadPoolExecutor(9))
        ends = time.monotonic() + seconds + 3
        refused = Barrier(10)
        loads = [pool.submit(keep_sending, process, ends, refused) for process in processes * 3]
        refused.wait(2)  # the burst is used up
        before, began = sum(counted(valkey).values()), time.monotonic()
        time.sleep(seconds)
        taken, took = sum(counted(valkey).values()) - before, time.monotonic() - began
        answers = [load.result() for load in loads]
    assert sum(sent for sent, _ in answers) > 2 * rate * seconds, "the load was above the rate"
    assert min(accepted for _, accepted in answers) > 0, "all processes took events"
    assert taken / took == pytest.approx(rate, rel=0.05)


def keep_sending(ingress: Process, ends: float, refused: Barrier) -> tuple[int, int]:
    """Send one event after the other; return how many, and how many were accepted. Waits at the first that is not."""
    sent = accepted = 0
    with ingress.connect() as connection:
        while time.monotonic() < ends:
            connection.sendall(request(b"%d" % sent))
            is_accepted = read_answer(connection).startswith(b"HTTP/1.1 200")
            if not is_accepted and sent == accepted:
                refused.wait()
            accepted += is_accepted
            sent += 1
    return sent, accepted


def test_events_that_cannot_be_counted_are_taken_and_a_metric_tells(valkey: Valkey) -> None:
    port = free_port()
    with limited(valkey, Limits(rate=0.01), INGRESS_METRICS_PORT=str(port)) as ingress, valkey.client() as client:
        client.set(NAMES.inbox_rates, "no hash")
        assert codes(send(ingress, 20)) == [200] * 20
        assert metric(port, "ingress_uncounted_batches_total") > 1
        client.delete(NAMES.inbox_rates)
        assert codes(send(ingress, 3)) == [200, 429, 429], "one is needed to notice"


def test_events_beyond_the_burst_go_to_the_overflow_until_it_is_whole_again(valkey: Valkey) -> None:
    port = free_port()
    with limited(valkey, Limits(burst=2), INGRESS_METRICS_PORT=str(port)) as ingress:
        with ThreadPoolExecutor(8) as pool:
            answers = [code for each in pool.map(lambda _: codes(send(ingress, 50)), range(8)) for code in each]
        assert answers == [200] * 400
        flood = counted(valkey)
        assert flood[NAMES.inbox] + flood[NAMES.overflow] == 400
        assert 0 < flood[NAMES.overflow] == metric(port, "ingress_overflowed_total")
        assert ingress.post(path=QUIET).status_code == 200
        assert counted(valkey) == flood | {NAMES.inbox: flood[NAMES.inbox] + 1}, "each tenant has a burst of its own"
        time.sleep(0.1)  # the burst is whole again
        assert ingress.post().status_code == 200
        assert counted(valkey) == flood | {NAMES.inbox: flood[NAMES.inbox] + 2}
        wait_for(lambda: metric(port, "ingress_overflow_length") == flood[NAMES.overflow], seconds=2)


def test_the_overflow_has_the_same_entries_and_the_same_doorbell(valkey: Valkey) -> None:
    with limited(valkey, Limits(burst=1)) as ingress, valkey.client() as client:
        while not client.xlen(NAMES.overflow):
            send(ingress, 10)
        (_, fields), *_ = client.xrange(NAMES.overflow)
        assert envelope.decode(fields).tenant == "acme"
        assert client.llen(INGEST_QUEUE) == 1


def test_a_tenant_over_its_share_of_the_inbox_is_refused_while_another_is_active(valkey: Valkey) -> None:
    with limited(valkey, Limits(inbox_bytes=3000)) as ingress, valkey.client() as client:
        assert codes(send(ingress, 100)) == [200] * 100, "alone it may fill all of the inbox"
        held = sum(envelope.size(fields) for stream in NAMES.streams for _, fields in client.xrange(stream))
        assert held > 3000
        assert int(client.hget(NAMES.inbox_bytes, "acme") or 0) == held
        assert ingress.post(path=QUIET).status_code == 200
        answer = ingress.post()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "inbox_share_full")
        assert "retry-after" in answer.headers
        assert ingress.post(path=QUIET).status_code == 200, "only the one tenant is refused"
        drain(client)
        wait_for(lambda: ingress.post().status_code == 200, seconds=2)


def test_tenants_that_are_active_in_another_process_count(valkey: Valkey) -> None:
    limits = Limits(inbox_bytes=1000)
    with limited(valkey, limits) as one, serving(valkey.url) as another:
        assert codes(send(one, 50)) == [200] * 50
        assert another.post(path=QUIET).status_code == 200
        wait_for(lambda: one.post().status_code == 503, seconds=2)


def drain(client: redis.Redis) -> None:
    reader = InboxReader(client, names=NAMES, consumer="test")
    while entries := reader.read(1000):
        reader.acknowledge(entries)
