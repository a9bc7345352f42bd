"""Refusals of registered endpoints, as they lie in Redis: since when, how many, the last one.

Ingress processes add what they have counted every few seconds; the exporter and `pipeline stats` read it. A stranger
who knows a path can add to a field, but the number of fields is bounded by the registry, and by `MOST`. What was not
refused for an hour is forgotten.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis

MOST: Final = 1000
"""Fields of the hash; what comes beyond is not kept."""
FORGET_SECONDS: Final = 3600

ADD: Final = """
local now = tonumber(redis.call('TIME')[1])
local length = redis.call('HLEN', KEYS[1])
for i = 3, #ARGV, 2 do
  local held = redis.call('HGET', KEYS[1], ARGV[i])
  local first, last, count = now, now, 0
  if held then first, last, count = string.match(held, '(%d+) (%d+) (%d+)') end
  if now - last > tonumber(ARGV[1]) then first, count = now, 0 end
  if not held then length = length + 1 end
  if held or length <= tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[1], ARGV[i], string.format('%d %d %d', first, now, count + ARGV[i + 1]))
  end
end
"""
"""Lua: KEYS hash (`Names.refusals`); ARGV seconds after which a field begins anew, bound of fields, then field and
number in turn. It holds for `provider/tenant/code` first and last refusal (Redis' Unix time, seconds) and how many."""

Key = tuple[str, str, str]
"""Provider, tenant and code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Refusals of one endpoint with one code, in the last hour and without a pause of an hour before; Unix times."""

    provider: str
    tenant: str
    code: str
    first_at: float
    last_at: float
    count: int


def add_arguments(name: str, counted: Mapping[Key, int]) -> tuple[str, int, str, str | int]:
    """Return the arguments of an EVAL that adds these numbers of refusals to the hash of this name."""
    pairs: list[Any] = [it for key, count in counted.items() for it in ("/".join(key), count)]
    return (ADD, 1, name, FORGET_SECONDS, MOST, *pairs)


def parse(fields: Mapping[bytes, bytes], *, now: float) -> list[Refused]:
    """Read the hash; return what has not been forgotten, what was refused for longest first."""
    found = []
    for field, value in fields.items():
        provider, tenant, code = field.decode().split("/")
        first, last, count = map(int, value.split())
        if now - last <= FORGET_SECONDS:
            found.append(
                Refused(provider=provider, tenant=tenant, code=code, first_at=first, last_at=last, count=count)
            )
    return sorted(found, key=lambda it: (it.first_at, it.provider, it.tenant, it.code))


def read(redis: Redis, name: str) -> list[Refused]:
    """Read the hash of this name."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.time()
    pipeline.hgetall(name)
    (now, _), fields = pipeline.execute()
    return parse(fields, now=now)


def forget_old(redis: Redis, name: str) -> None:
    """Remove the fields of what has not been refused for an hour."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.time()
    pipeline.hgetall(name)
    (now, _), fields = pipeline.execute()
    if old := [field for field, value in fields.items() if now - int(value.split()[1]) > FORGET_SECONDS]:
        redis.hdel(name, *old)
