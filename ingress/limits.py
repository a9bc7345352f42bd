"""What a tenant may send: its rate, its burst, and its share of the inbox.

    over the rate, counted over all processes ──▶ 429
    over its share of the inbox, while another tenant was active in the last hour ──▶ 503
    beyond its burst, counted here ──▶ the stream `inbox:overflow`, until the burst is whole again

The rate and the share are counted in Redis by `COUNT`, one call with each batch of events that is appended anyway. In
between, each process adds its own events to what Redis said last. What a process takes too much in that time is paid
back: the rate holds over any longer time. Where counting fails, events are taken.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from ingress.errors import INBOX_SHARE_FULL, Refusal, rate_limited
from ingress.metrics import Metrics
from shared.registry import Limits
from shared.wire import Names

BURST: Final = 1000
BURST_PER_SECOND: Final = 500.0
"""Events of one tenant that may come at once to the inbox of this process, unless it has a burst of its own, and how
many a second are allowed again. Drains store several times as many."""
ACTIVE_SECONDS: Final = 3600.0
"""How long a tenant counts as active after an event of its own."""
FORGIVEN_MICROSECONDS: Final = 10_000_000
"""Most that a tenant waits longer than for its burst: a clock of Redis that jumps back must not lock it out."""

COUNT: Final = """
local now = redis.call('TIME')
now = now[1] * 1e6 + now[2]
local counts = {}
for i = 1, #ARGV, 4 do
  local tenant, taken, most, bytes = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local whole_at, held = now, 0
  if taken > 0 then
    whole_at = math.max(tonumber(redis.call('HGET', KEYS[1], tenant) or 0), now) + taken
    whole_at = math.min(whole_at, now + most)
    redis.call('HSET', KEYS[1], tenant, string.format('%.0f', whole_at))
  end
  if bytes > 0 then held = redis.call('HINCRBY', KEYS[2], tenant, bytes) end
  counts[#counts + 1] = {math.floor(whole_at - now), held}
end
return counts
"""
"""Lua: KEYS rates, bytes; ARGV by fours: tenant, microseconds that its events take of its rate, bound of microseconds,
bytes that they add to its share. Returns for each the microseconds until its burst is whole again, and its bytes."""


@dataclass(slots=True, eq=False)
class Tenant:
    """One tenant as this process knows it; times are those of the loop.

    Attributes:
        limits: as published.
        active_at: when its last event came.
        burst_whole_at: when its burst is whole again.
        overflows: its events go to the overflow.
        rate_whole_at: when its rate allows a whole burst again, as Redis said last, own events since then added.
        held: bytes in the inbox, as Redis said last, own events since then added.
        events: appended here and not counted in Redis yet.
        appended: bytes of the same.
        is_counted: the last attempt to count in Redis has not failed.
    """

    name: str
    limits: Limits
    active_at: float = float("-inf")
    burst_whole_at: float = 0.0
    overflows: bool = False
    rate_whole_at: float = 0.0
    held: int = 0
    events: int = 0
    appended: int = 0
    is_counted: bool = True

    @property
    def rate_burst(self) -> float:
        """Events that may come at once under its rate: those of a second, unless it has a burst."""
        return self.limits.burst or max(self.limits.rate or 0, 1)

    def take_off_burst(self, now: float) -> None:
        """Take one event off its burst; it `overflows` from then on until the burst is whole again."""
        missing = self.burst_whole_at - now
        if missing <= 0:
            self.burst_whole_at = now + 1 / BURST_PER_SECOND
            self.overflows = False
            return
        whole = (self.limits.burst or BURST) / BURST_PER_SECOND
        self.burst_whole_at = now + min(missing + 1 / BURST_PER_SECOND, whole)
        self.overflows = self.overflows or missing + 1 / BURST_PER_SECOND > whole


class Tenants:
    """The tenants that have sent events to this process."""

    def __init__(self, names: Names, metrics: Metrics) -> None:
        self._names = names
        self._metrics = metrics
        self._known: dict[str, Tenant] = {}
        self._latest = [Tenant("", Limits())] * 2
        """The two that were active last, the last one first."""
        self._uncounted: dict[str, Tenant] = {}
        self._refused: set[str] = set()
        """Names of those that were over their share when their last event came."""
        self._active_anywhere: Mapping[str, float] = {}
        self._published_at = float("-inf")

    def admit(self, name: str, limits: Limits, *, size: int, now: float) -> Tenant | Refusal:
        """Return the tenant of an event, or why the event is refused."""
        tenant = self._known.get(name)
        if tenant is None:
            tenant = self._known[name] = Tenant(name, limits)
        tenant.limits, tenant.active_at = limits, now
        if tenant is not self._latest[0]:
            self._latest = [tenant, self._latest[0]]
        if limits.rate is not None and tenant.is_counted:
            wait = tenant.rate_whole_at - now - (tenant.rate_burst - 1) / limits.rate
            if wait > 0:
                return rate_limited(math.ceil(wait))
        if limits.inbox_bytes is not None and tenant.held + size > limits.inbox_bytes and self._has_others(tenant):
            self._refused.add(name)
            return INBOX_SHARE_FULL
        return tenant

    def count(self, tenant: Tenant, *, size: int, now: float) -> None:
        """Count an event of a limited tenant that is appended, here at once and in Redis with the next batch."""
        if tenant.limits.rate is not None:
            tenant.rate_whole_at = max(tenant.rate_whole_at, now) + 1 / tenant.limits.rate
        tenant.held += size
        tenant.events += 1
        tenant.appended += size
        self._uncounted[tenant.name] = tenant

    def take_uncounted(self) -> tuple[Sequence[Tenant], Sequence[str | int]]:
        """Return the tenants with events that are not counted in Redis yet, and the command that counts them."""
        counted = tuple(self._uncounted.values())
        command: list[str | int] = ["EVAL", COUNT, 2, self._names.inbox_rates, self._names.inbox_bytes]
        for it in counted:
            each = 1e6 / it.limits.rate if it.limits.rate is not None else 0
            command += [it.name, str(it.events * each), str(it.rate_burst * each + FORGIVEN_MICROSECONDS), it.appended]
            it.events = it.appended = 0
        self._uncounted = {}
        return counted, command

    def finish_counting(self, counted: Sequence[Tenant], reply: object, now: float) -> None:
        """Take over what Redis says of these tenants; what is no list says that counting failed."""
        if not isinstance(reply, list):
            self._metrics.uncounted_batches.inc()
        for place, it in enumerate(counted):
            it.is_counted = isinstance(reply, list)
            microseconds, held = reply[place] if isinstance(reply, list) else (0, 0)
            own = it.events / it.limits.rate if it.limits.rate is not None else 0
            it.rate_whole_at = now + microseconds / 1e6 + own
            it.held = held + it.appended

    async def exchange(self, redis: Redis) -> None:
        """Tell other processes which tenants are active; learn which are active there, and what refused ones hold."""
        refused, ahead = list(self._refused), time.time() - time.monotonic()
        news = {it.name: it.active_at + ahead for it in self._latest if it.active_at > self._published_at}
        async with redis.pipeline(transaction=False) as pipeline:
            pipeline.hmget(self._names.inbox_bytes, ["", *refused])
            pipeline.zrange(self._names.active_tenants, 0, -1, withscores=True)
            if news:
                pipeline.zadd(self._names.active_tenants, news, gt=True)
                pipeline.zremrangebyrank(self._names.active_tenants, 0, -4)
            (_, *held), active, *_ = await pipeline.execute(raise_on_error=False)  # a full Redis refuses ZADD
        for name, size in zip(refused, held, strict=True):
            self._known[name].held = int(size or 0)
            self._refused.discard(name)
        self._active_anywhere = {name.decode(): at - ahead for name, at in active}
        self._published_at = max(it.active_at for it in self._latest)

    def _has_others(self, tenant: Tenant) -> bool:
        """Return whether another tenant was active lately, here or elsewhere."""
        others = [it.active_at for it in self._latest if it is not tenant]
        others += [at for name, at in self._active_anywhere.items() if name != tenant.name]
        return max(others, default=float("-inf")) > tenant.active_at - ACTIVE_SECONDS
