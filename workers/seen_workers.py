"""Which workers were seen within the last hour, and what they do: each says so every two seconds, beside that it lives.

For the exporter and people only; admission goes by `workers.live_workers`. A sorted set has the names by the time when
each was last seen, a hash what it said.

Guarantees: a worker that is told to stop is forgotten at once. One that falls silent without that is lost: it is
remembered for `LOST_SECONDS`, unless one of its name is seen again. So what is kept is bounded by the names of an hour,
however often they restart. Redis' clock decides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from shared.wire import EXPRESS_QUEUE, HANDLERS_QUEUE
from workers.live_workers import LIVE_SECONDS

if TYPE_CHECKING:
    from redis import Redis

    from shared.wire import Names

LOST_SECONDS: Final = 3600.0

_SAY: Final = f"""
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - {LOST_SECONDS:.0f})) do
  redis.call('HDEL', KEYS[2], name)
  redis.call('ZREM', KEYS[1], name)
end
"""
"""KEYS seen, activity; ARGV name, what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What a worker does at a moment.

    Attributes:
        queues: that it takes messages from.
        slots: processes that run tasks.
        busy: of them, those that do.
        fetched_seconds: since it took a message, or since it started.
    """

    queues: tuple[str, ...]
    slots: int
    busy: int
    fetched_seconds: float

    @property
    def duties(self) -> tuple[str, ...]:
        """The queues that it is there for; a worker of `handlers` only helps out at `express`."""
        is_helper = HANDLERS_QUEUE in self.queues
        return tuple(queue for queue in self.queues if not (is_helper and queue == EXPRESS_QUEUE))


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenWorker:
    """A worker of the last hour.

    Attributes:
        name: Celery's, such as `handlers@host`.
        silent_seconds: since it was seen.
        activity: when it was seen; `fetched_seconds` as of now.
    """

    name: str
    silent_seconds: float
    activity: Activity

    @property
    def is_lost(self) -> bool:
        """Whether it has fallen silent without having been told to stop."""
        return self.silent_seconds > LIVE_SECONDS


def say_activity(redis: Redis, names: Names, name: str, activity: Activity) -> None:
    """Say that a worker is there, and what it does."""
    said = [activity.queues, activity.slots, activity.busy, round(activity.fetched_seconds, 3)]
    redis.eval(_SAY, 2, names.seen_workers, names.worker_activity, name, json.dumps(said))


def forget(redis: Redis, names: Names, name: str) -> None:
    """Say that a worker ends because it was told to."""
    pipeline = redis.pipeline()
    pipeline.zrem(names.seen_workers, name)
    pipeline.hdel(names.worker_activity, name)
    pipeline.execute()


def read_seen(redis: Redis, names: Names) -> list[SeenWorker]:
    """Return the workers of the last hour, by name."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.time()
    pipeline.zrange(names.seen_workers, 0, -1, withscores=True)
    pipeline.hgetall(names.worker_activity)
    (seconds, microseconds), seen, said = pipeline.execute()
    now = seconds + microseconds / 1e6
    found = []
    for name, at in seen:
        silent = max(0.0, now - at)
        if name in said and silent < LOST_SECONDS:
            activity = _decode(said[name], silent)
            found.append(SeenWorker(name=name.decode(), silent_seconds=silent, activity=activity))
    return sorted(found, key=lambda it: it.name)


def _decode(text: bytes, silent_seconds: float) -> Activity:
    said: Any = json.loads(text)
    queues, slots, busy, fetched_seconds = said
    return Activity(queues=tuple(queues), slots=slots, busy=busy, fetched_seconds=fetched_seconds + silent_seconds)
