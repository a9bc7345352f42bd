"""What the guarantees rest on in Redis."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import redis

from deploy.doctor.finding import Finding, ok, unknown, wrong
from deploy.local.settings import OLDEST_REDIS
from shared.durability import Durability, assess

THINGS: Final = ("redis version", "redis role", "redis durability", "redis eviction", "redis memory")


BROKER_THINGS: Final = ("broker version", "broker role")


def examine_broker(client: redis.Redis, thing: str) -> Finding:
    """Return what was found of one of `BROKER_THINGS`, where the broker is another Redis.

    Raises:
        redis.RedisError: it is away.
    """
    facts: Mapping[str, Any] = client.info()
    found = version(facts) if thing == "broker version" else _role(facts, "BROKER_URL")
    return replace(found, thing=thing)


def examine_redis(client: redis.Redis, *, meant: Durability, high_water: float) -> Iterator[Finding]:
    """Yield a finding for each of `THINGS`.

    Args:
        client: of the inbox's Redis.
        meant: INBOX_DURABILITY.
        high_water: INBOX_HIGH_WATER.

    Raises:
        redis.RedisError: it is away.
    """
    facts: Mapping[str, Any] = client.info()
    appendfsync = None
    with suppress(redis.ResponseError):  # managed servers forbid CONFIG
        appendfsync = client.config_get("appendfsync").get("appendfsync")
    yield version(facts)
    yield _role(facts)
    verdict = assess(facts, appendfsync, meant=meant)
    yield Finding(thing="redis durability", state=verdict.durability.state, found=verdict.durability.text)
    yield Finding(thing="redis eviction", state=verdict.eviction.state, found=verdict.eviction.text)
    yield _memory(facts, high_water)


def version(facts: Mapping[str, Any]) -> Finding:
    """Look at what INFO says of the server's version."""
    number = str(facts.get("valkey_version") or facts.get("redis_version", "0"))
    found = f"{'Valkey' if facts.get('valkey_version') else 'Redis'} {number}"
    if int(number.partition(".")[0]) < OLDEST_REDIS:
        return wrong("redis version", f"{found} is older than {OLDEST_REDIS}: upgrade it")
    return ok("redis version", found)


def _role(facts: Mapping[str, Any], variable: str = "REDIS_URL") -> Finding:
    if facts.get("role") != "master":
        return wrong("redis role", f"{variable} names a {facts.get('role')}, which takes no events: name its primary")
    if facts.get("aof_last_write_status", "ok") != "ok":
        return wrong("redis role", "Redis cannot write its append-only file and refuses all writes: is its disk full?")
    return ok("redis role", "primary, takes writes")


def _memory(facts: Mapping[str, Any], high_water: float) -> Finding:
    used, bound = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    if not bound:
        return unknown("redis memory", f"{_megabytes(used)} used, of no bound that Redis tells")
    found = f"{_megabytes(used)} of {_megabytes(bound)} used"
    if used >= bound * high_water:
        advice = f"events are answered 503 from {high_water:.0%} on: do the ingest workers run? Else raise maxmemory"
        return wrong("redis memory", f"{found}; {advice}")
    return ok("redis memory", found)


def _megabytes(count: int) -> str:
    return f"{count / 1_000_000:.0f} MB"
