"""Which workers live, and which handlers they run: each says so every two seconds, in the Redis of its queues.

Two sorted sets hold it: what workers say of themselves, and names of handlers with digests of their registrations, both
by the time when a worker last said so.

Guarantees: a worker counts from the moment it is ready; it is forgotten at once when it is told to stop, and within
`LIVE_SECONDS` when it is killed. Redis' clock decides. What is lost here is back after two seconds.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from shared import wire
from shared.releases import RELEASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from redis import Redis

EVERY_SECONDS: Final = 2.0
LIVE_SECONDS: Final = 10.0
KNOWN_SECONDS: Final = 0.5
"""For so long a process goes by what it has read: admission asks many times a second."""

_SAY: Final = f"""
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
redis.call('ZADD', KEYS[1], now, ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[2], now, ARGV[i]) end
for _, key in ipairs(KEYS) do redis.call('ZREMRANGEBYSCORE', key, '-inf', now - {LIVE_SECONDS:.0f}) end
"""
"""KEYS workers, handlers; ARGV what the worker says of itself, then its handlers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveWorker:
    """A worker's main process, as it describes itself.

    Attributes:
        id: unique, ever.
        name: Celery's, such as `handlers@host`.
        queues: that it takes messages from.
        slots: processes that run tasks.
        code_version: of its handlers; empty if it runs none.
        release: see `shared.releases`; empty if it does not say.
    """

    id: str
    name: str
    queues: tuple[str, ...]
    slots: int
    code_version: str
    release: str = RELEASE


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The workers that live at a moment.

    Attributes:
        workers: by name.
        registrations: name and digest of each handler's registration; workers of two versions may have two of one name.
    """

    workers: tuple[LiveWorker, ...] = ()
    registrations: frozenset[tuple[str, str]] = frozenset()

    @property
    def handlers(self) -> frozenset[str]:
        """The names of the handlers that some worker runs."""
        return frozenset(name for name, _ in self.registrations)

    @property
    def handler_slots(self) -> int:
        """Processes that run handlers, without those of express workers."""
        return sum(it.slots for it in self.workers if wire.HANDLERS_QUEUE in it.queues)

    @property
    def express_slots(self) -> int:
        """Processes that run handlers from the express queue only."""
        return sum(
            it.slots for it in self.workers if wire.EXPRESS_QUEUE in it.queues and wire.HANDLERS_QUEUE not in it.queues
        )


class LiveWorkers:
    """What workers say, as this process knows it."""

    def __init__(self, redis: Redis, names: wire.Names, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._names = names
        self._clock = clock
        self._known: Live | None = None
        self._known_at = 0.0

    def read(self) -> Live:
        """Return who lives, as it was at most `KNOWN_SECONDS` ago."""
        if self._known is None or self._clock() - self._known_at >= KNOWN_SECONDS:
            self._known, self._known_at = read_live(self._redis, self._names), self._clock()
        return self._known


def read_live(redis: Redis, names: wire.Names) -> Live:
    """Return who lives now."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.time()
    pipeline.zrange(names.live_workers, 0, -1, withscores=True)
    pipeline.zrange(names.live_handlers, 0, -1, withscores=True)
    (seconds, microseconds), workers, handlers = pipeline.execute()
    oldest = seconds + microseconds / 1e6 - LIVE_SECONDS
    found = sorted((_decode(text) for text, at in workers if at > oldest), key=lambda it: (it.name, it.id))
    texts = (text.decode().partition(" ") for text, at in handlers if at > oldest)
    return Live(workers=tuple(found), registrations=frozenset((name, digest) for name, _, digest in texts))


def say_live(redis: Redis, names: wire.Names, worker: LiveWorker, registrations: Iterable[tuple[str, str]]) -> None:
    """Say that a worker lives and has these registrations."""
    handlers = [f"{name} {digest}" for name, digest in registrations]
    redis.eval(_SAY, 2, names.live_workers, names.live_handlers, _encode(worker), *handlers)


def say_gone(redis: Redis, names: wire.Names, worker: LiveWorker) -> None:
    """Say that a worker takes no more messages."""
    redis.zrem(names.live_workers, _encode(worker))


def _encode(worker: LiveWorker) -> str:
    return json.dumps(
        {
            "id": worker.id,
            "name": worker.name,
            "queues": worker.queues,
            "slots": worker.slots,
            "code": worker.code_version,
            "release": worker.release,
        }
    )


def _decode(text: bytes) -> LiveWorker:
    said: dict[str, Any] = json.loads(text)
    queues: Sequence[str] = said["queues"]
    return LiveWorker(
        id=said["id"],
        name=said["name"],
        queues=tuple(queues),
        slots=said["slots"],
        code_version=said["code"],
        release=said.get("release", ""),
    )
