"""An ingress is ready only before a Redis that keeps what it confirms, unless something else is meant."""

from __future__ import annotations

import httpx
import pytest

from tests.ingress_process import Valkey, answers, serving, wait_for

DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory": "64mb", "maxmemory-policy": "noeviction"}


@pytest.fixture(autouse=True)
def durable(valkey: Valkey) -> None:
    """Configure it as it should be."""
    with valkey.client() as client:
        for name, value in DURABLE.items():
            client.config_set(name, value)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("appendonly", "no", "Redis has no append-only file and loses acknowledged events when it dies"),
        ("maxmemory", "0", "Redis has no maxmemory and is ended by the system"),
        ("maxmemory-policy", "allkeys-lru", "Redis throws acknowledged events away when it is full"),
        ("maxmemory-policy", "volatile-ttl", "set maxmemory-policy volatile-ttl to noeviction"),
    ],
)
def test_an_ingress_before_a_redis_that_loses_events_is_not_ready_and_says_why(
    valkey: Valkey, name: str, value: str, line: str
) -> None:
    with serving(valkey.url, INBOX_DURABILITY="") as ingress, valkey.client() as client:
        client.config_set(name, value)
        wait_for(lambda: not answers(ingress, "/readyz"), seconds=5)
        answer = httpx.get(ingress.url + "/readyz")
        assert answer.json() == {"status": "not_ready", "reasons": ["redis_not_durable"]}
        wait_for(lambda: line in ingress.log.read_text(), seconds=5)
        assert "or set INBOX_DURABILITY" in ingress.log.read_text()
        client.config_set(name, DURABLE[name])
        wait_for(lambda: answers(ingress, "/readyz"), seconds=5)


@pytest.mark.parametrize("value", ["everysec", "no"])
def test_an_ingress_before_a_redis_with_a_weaker_appendfsync_is_not_ready(valkey: Valkey, value: str) -> None:
    with valkey.client() as client:
        client.config_set("appendfsync", value)
    with serving(valkey.url, wait_until="/livez", INBOX_DURABILITY="") as ingress:
        assert httpx.get(ingress.url + "/readyz").json()["reasons"] == ["redis_not_durable"]
        assert f"Redis has appendfsync {value} and loses acknowledged events" in ingress.log.read_text()


def test_a_redis_that_comes_back_with_a_weaker_appendfsync_is_noticed(valkey: Valkey) -> None:
    with serving(valkey.url, INBOX_DURABILITY="") as ingress:
        valkey.stop()
        valkey.start()  # as it begins, with appendfsync no
        wait_for(lambda: "Redis has appendfsync no and loses" in ingress.log.read_text(), seconds=5)
        assert httpx.get(ingress.url + "/readyz").json()["reasons"] == ["redis_not_durable"]


def test_config_is_asked_for_seldom(valkey: Valkey) -> None:
    with serving(valkey.url, INBOX_DURABILITY=""), valkey.client() as client:
        client.config_resetstat()
        wait_for(lambda: client.info("commandstats").get("cmdstat_hget", {"calls": 0})["calls"] > 3, seconds=10)
        assert "cmdstat_config|get" not in client.info("commandstats")


@pytest.mark.parametrize(
    ("meant", "appendfsync", "is_ready"), [("everysec", "everysec", True), ("everysec", "no", False)]
)
def test_a_second_that_may_be_lost_is_accepted_where_it_is_meant(
    valkey: Valkey, meant: str, appendfsync: str, *, is_ready: bool
) -> None:
    with valkey.client() as client:
        client.config_set("appendfsync", appendfsync)
    with serving(valkey.url, wait_until="/livez", INBOX_DURABILITY=meant) as ingress:
        assert answers(ingress, "/readyz") == is_ready


def test_any_redis_is_accepted_where_that_is_meant(valkey: Valkey) -> None:
    with valkey.client() as client:
        client.config_set("appendonly", "no")
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "allkeys-lru")
    with serving(valkey.url, INBOX_DURABILITY="any") as ingress:
        assert answers(ingress, "/readyz")


def test_where_config_is_forbidden_info_tells_and_the_rest_is_said_to_be_unknown(valkey: Valkey) -> None:
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-config")
        limited = valkey.url.replace("//:test@", "//limited:secret@")
        with serving(limited, INBOX_DURABILITY="") as ingress:
            told = httpx.get(ingress.url + "/readyz").json()
            line = "Redis does not tell appendfsync (CONFIG is forbidden): see that it is always or safer"
            assert told == {"status": "ready", "registry_version": "1", "unknown": [line]}
            assert line in ingress.log.read_text()
            client.config_set("appendonly", "no")
            wait_for(lambda: not answers(ingress, "/readyz"), seconds=5)
