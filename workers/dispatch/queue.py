"""The Celery queues `handlers` and `express`: sends messages, and tells which deliveries they still name.

Messages carry ids only. Errors of Redis reach the caller.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from shared import wire
from workers.dispatch.express import MOST_WAITING
from workers.store.limits import ANY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from redis import Redis

    from workers.dispatch.admission import Message

CLOSED_MILLISECONDS: Final = 10_000
"""How long nothing is sent to `express`, once nobody served it."""
STUCK_SECONDS: Final = 2.0
"""In which a worker of `express` takes at least one message, if one waits."""
KNOWN_SECONDS: Final = 0.25
"""How long a process remembers the mean durations that it has read: a round trip in each admission took 4 ms."""
SHOWN: Final = 20
"""Deliveries of a message that Flower lists."""
CLAIM_SECONDS: Final = 5.0
"""In which a worker that has taken a message has begun with it, also on a busy machine."""


class CeleryQueue:
    """The queues `handlers` and `express`."""

    def __init__(self, redis: Redis, names: wire.Names, *, clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._names = names
        self._clock = clock
        self._following: bytes | None = None
        self._following_since = 0.0
        self._means: dict[tuple[str, str], str | bytes | None] = {}
        self._means_since = float("-inf")

    def lengths(self) -> tuple[int, int]:
        """Return the messages that wait in `handlers` and in `express`; `MOST_WAITING` while `express` is closed."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.llen(self._names.handlers_queue)
        pipeline.llen(self._names.express_queue)
        pipeline.exists(self._names.express_closed)
        handlers, express, closed = pipeline.execute()
        return handlers, max(express, MOST_WAITING) if closed else express

    def durations(self, lanes: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], float]:
        """Return the mean seconds of each (tenant, handler), as far as they are known; tenant "*" is all of them."""
        now = self._clock()
        if not 0 <= now - self._means_since < KNOWN_SECONDS:
            self._means, self._means_since = {}, now
        asked = [lane for lane in lanes if lane not in self._means]
        if asked:
            means = self._redis.hmget(self._names.handler_means, [_field(*lane) for lane in asked])
            self._means |= zip(asked, means, strict=True)
        return {lane: float(mean) for lane in lanes if (mean := self._means[lane]) is not None}

    def send(self, *messages: Message) -> None:
        """Send messages as the tasks of their handlers: one round trip, all or none."""
        pipeline = self._redis.pipeline(transaction=True)
        for message in messages:
            pipeline.lpush(self._names.prefix + _queue_of(message), pack(message))
        pipeline.execute()

    def list_express(self) -> set[tuple[UUID, str]]:
        """Return event and handler of what waits in `express`."""
        waiting: Any = self._redis.lrange(self._names.express_queue, 0, -1)
        return {pair for message in map(_read, waiting) for pair in _named_by(message)}

    def is_express_stuck(self) -> bool:
        """Return whether the first message in `express` has been the same one for two seconds.

        A busy worker takes one after the other; only one that is gone, or held up by a handler, takes none.
        """
        following: Any = self._redis.lindex(self._names.express_queue, -1)
        if following is None or following != self._following:
            self._following, self._following_since = following, self._clock()
        return following is not None and self._clock() - self._following_since >= STUCK_SECONDS

    def close_express(self) -> None:
        """Move what waits in `express` to `handlers`, and send nothing there for a while: nobody serves it."""
        self._redis.set(self._names.express_closed, 1, px=CLOSED_MILLISECONDS)
        while self._redis.lmove(self._names.express_queue, self._names.handlers_queue, "RIGHT", "LEFT"):
            pass

    def list_named(self) -> set[tuple[UUID, str]]:
        """Return event and handler of what a message will bring: one in the queue, or just taken by a worker.

        A worker claims as soon as it takes a message. One that was taken longer ago is at work, or lost with its worker
        or its connection: kombu keeps those for a minute or two, in which their deliveries would wait. Others are lost
        between the queue and `unacked`: kombu takes a message first, and then Redis may refuse to note that.
        """
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.lrange(self._names.handlers_queue, 0, -1)  # as short as admission keeps them
        pipeline.lrange(self._names.express_queue, 0, -1)
        pipeline.hgetall(self._names.unacked)
        pipeline.zrangebyscore(self._names.unacked_index, self._clock() - CLAIM_SECONDS, "+inf")
        waiting, express, held, lately = pipeline.execute()
        taken = (_message_of(held.get(tag, b"")) for tag in lately)
        return {pair for message in (*map(_read, (*waiting, *express)), *taken) for pair in _named_by(message)}


def pack(message: Message) -> str:
    """Return the Celery message that runs these deliveries."""
    argument = message.argument
    shown = argument[:SHOWN]
    more = f", and {len(argument) - SHOWN} more" if len(argument) > SHOWN else ""
    return wire.task_message(
        message.handler,
        [argument],
        queue=_queue_of(message),
        origin="admission",
        shown=f"[{shown!r}{more}]",
        task_id=str(uuid.uuid4()),
        tag=str(uuid.uuid4()),
    )


class HandlerDurations:
    """Recent mean durations of handlers, and of each tenant's, kept by each process and shared when they change."""

    def __init__(self, redis: Redis, names: wire.Names) -> None:
        self._redis = redis
        self._names = names
        self._means: dict[str, float] = {}
        self._shared: dict[str, float] = {}

    def add(self, handler: str, durations: list[tuple[str, float]]) -> None:
        """Take in the tenants and seconds of the latest attempts."""
        fields = set()
        for tenant, duration in durations:
            for field in (_field(ANY, handler), _field(tenant, handler)):
                mean = self._means.get(field, duration)
                self._means[field] = mean + (duration - mean) * 0.1
                fields.add(field)
        changed = {field: self._means[field] for field in fields if self._has_changed(field)}
        if changed:
            shared: dict[Any, Any] = {field: f"{mean:.6f}" for field, mean in changed.items()}
            self._redis.hset(self._names.handler_means, mapping=shared)
            self._shared |= changed

    def _has_changed(self, field: str) -> bool:
        """Say whether a mean differs by a fifth, and a millisecond, from what was shared."""
        shared = self._shared.get(field)
        return shared is None or abs(self._means[field] - shared) > max(shared / 5, 0.001)


def _field(tenant: str, handler: str) -> str:
    """Return the field of a (tenant, handler) among the means; neither name holds a blank."""
    return handler if tenant == ANY else f"{tenant} {handler}"


def _queue_of(message: Message) -> str:
    return wire.EXPRESS_QUEUE if message.express else wire.HANDLERS_QUEUE


def _read(text: bytes) -> Any:
    """Return what JSON says, or None."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _message_of(entry: bytes) -> Any:
    """Return a message for a handler in kombu's hash, a JSON list of message, exchange and routing key; else None.

    The routing key is the queue's name without the prefix.
    """
    match _read(entry):
        case [message, _, wire.HANDLERS_QUEUE | wire.EXPRESS_QUEUE]:
            return message
    return None


def _named_by(message: Any) -> list[tuple[UUID, str]]:
    """Return what a message names: nothing if it cannot be read, for then no worker can either."""
    try:
        (argument,) = json.loads(base64.b64decode(message["body"]))[0]
        return [(UUID(each.rpartition("/")[2]), message["headers"]["task"]) for each in argument]
    except (ValueError, IndexError, TypeError, KeyError, AttributeError):
        return []
