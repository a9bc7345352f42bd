"""Refusals of registered endpoints are told to Redis, where the exporter and `pipeline stats` find them."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

from redis import Redis

from deploy.exporter.figures import Families
from deploy.exporter.postgres_figures import PostgresFigures
from shared import refusals
from shared.refusals import FORGET_SECONDS, MOST, Refused, add_arguments
from tests.ingress_process import endpoint, own_valkey, publish, serving, wait_for
from tests.integration.test_exporter import parse, render
from tests.names import NAMES

if TYPE_CHECKING:
    from workers.store.connect import Connection


def add(redis: Redis, number: int, *, tenant: str = "acme", code: str = "invalid_signature") -> None:
    redis.eval(*add_arguments(NAMES.refusals, {("moveris", tenant, code): number}))


def test_refusals_begin_once_and_add_up(client: Redis) -> None:
    add(client, 2)
    began = refusals.read(client, NAMES.refusals)[0].first_at
    time.sleep(1.1)  # seconds are what is kept
    add(client, 3)
    add(client, 1, code="missing_signature")
    first, other = refusals.read(client, NAMES.refusals)
    assert (first.tenant, first.provider, first.code, first.count) == ("acme", "moveris", "invalid_signature", 5)
    assert first.first_at == began < first.last_at
    assert (other.code, other.count) == ("missing_signature", 1)


def test_after_an_hour_without_one_they_are_forgotten_and_begin_anew(client: Redis) -> None:
    now, _ = client.time()
    field = "moveris/acme/invalid_signature"
    client.hset(NAMES.refusals, field, f"{now - 9000} {now - FORGET_SECONDS - 5} 70")
    assert refusals.read(client, NAMES.refusals) == []
    add(client, 1)
    (found,) = refusals.read(client, NAMES.refusals)
    assert found.count == 1
    assert found.first_at >= now
    client.hset(NAMES.refusals, "moveris/globex/invalid_signature", f"{now - 9000} {now - FORGET_SECONDS - 5} 70")
    refusals.forget_old(client, NAMES.refusals)
    assert client.hkeys(NAMES.refusals) == [field.encode()]


def test_the_number_of_fields_is_bounded_and_known_ones_go_on(client: Redis) -> None:
    for number in range(MOST + 5):
        add(client, 1, tenant=f"t{number}")
    assert client.hlen(NAMES.refusals) == MOST
    add(client, 1, tenant="t0")
    (known,) = [it for it in refusals.read(client, NAMES.refusals) if it.tenant == "t0"]
    assert known.count == 2


def test_refusals_count_from_the_last_event_that_was_stored(connection: Connection, database_url: str) -> None:
    now = time.time()
    connection.execute(
        "INSERT INTO endpoint_activity (tenant, provider, first_at, last_at) VALUES"
        " ('rotated', 'moveris', now(), to_timestamp(%s)), ('mixed', 'moveris', now(), to_timestamp(%s))",
        [now - 600, now - 10],
    )
    found = [
        Refused(provider="moveris", tenant=tenant, code="invalid_signature", first_at=now - 3000, last_at=now, count=9)
        for tenant in ("rotated", "mixed", "silent")
    ]
    families = Families()
    with closing(PostgresFigures(database_url, schema="", list_refused=lambda: found)) as figures_of:
        figures_of.read(families)
    seconds = {key[3]: value for key, value in parse(render(families)).items() if key[0] == "pipeline_refused_seconds"}
    assert {it: round(value, -1) for it, value in seconds.items()} == {"rotated": 600, "mixed": 10, "silent": 3000}


def test_every_ingress_tells_its_refusals_and_a_stranger_at_no_endpoint_is_not_told() -> None:
    with (
        own_valkey() as valkey,
        Redis.from_url(valkey.url) as redis,
        serving(valkey.url, wait_until="/livez") as one,
        serving(valkey.url, wait_until="/livez") as other,
    ):
        publish(valkey.url, 1, endpoint())
        wait_for(lambda: all(it.post().status_code == 200 for it in (one, other)), seconds=10)
        for process in (one, other, other):
            assert process.post(secret=b"wrong").status_code == 401
        assert one.post(path="/webhooks/moveris/stranger").status_code == 404
        wait_for(lambda: sum(it.count for it in refusals.read(redis, NAMES.refusals)) == 3, seconds=15)
        assert redis.hkeys(NAMES.refusals) == [b"moveris/acme/invalid_signature"]
