"""The inbox as the drains read it: the only file of `workers.ingest` that uses Redis.

An entry stays in the inbox until it is acknowledged. Entries of dead consumers are taken over; suspects (delivered
several times) one by one, so that only the entry that ends its process reaches the limit. A missing consumer group is
created at the beginning of the stream, whenever it is found missing. While Redis is unreachable, calls raise redis-py's
`ConnectionError` or `TimeoutError`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from redis.exceptions import RedisError, ResponseError

from shared import wire
from shared.envelope import size
from shared.identity import raise_if_foreign
from workers.ingest.inbox_scripts import (
    ACKNOWLEDGE,
    FORGET,
    IDLE,
    MAKE_GROUP,
    OPEN,
    OVERFLOW_PART,
    READ,
    TAKE_OVER,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis import Redis

__all__ = ["InboxReader", "Place", "Received", "RedisError"]

SUSPECT_DELIVERIES: Final = 3
"""From this delivery on, an entry is processed alone."""
READ_BYTES: Final = 32 * 1024 * 1024
"""What one read brings at most, but for the last entries of it."""
IDLE_CONSUMER_MILLISECONDS: Final = 3_600_000

SHORT: Final = 128
"""A batch of the overflow has a quarter of that while events come into the inbox, or of the last batch of the inbox if
that was more: 32 entries."""
ACTIVE_SECONDS: Final = 1.0
"""How long after an entry of the inbox another one is expected."""


class Place(NamedTuple):
    """Where an entry stands: the name of the stream and its id there, such as b"1700000000000-0"."""

    stream: str
    stream_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An entry that is ours until it is acknowledged or taken over.

    Attributes:
        place: where it stands.
        fields: as the ingress wrote them.
        deliveries: how often it was given to a drain, this time included.
    """

    place: Place
    fields: Mapping[bytes, bytes]
    deliveries: int


class InboxReader:
    """One consumer of the inbox."""

    def __init__(
        self,
        client: Redis,
        *,
        names: wire.Names,
        consumer: str,
        broker: Redis | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a reader.

        Args:
            client: of the inbox; returns bytes, not text.
            broker: where the doorbell is, if not there.
            names: in Redis.
            consumer: unique per process, ever: entries that it holds are only taken over when they are idle.
            clock: seconds.
        """
        self._client = client
        self._broker = client if broker is None else broker
        self._names = names
        self._streams = names.streams
        self._consumer = consumer
        self._is_turn_of_overflow = False
        self._clock = clock
        self._inbox_batch, self._inbox_read_at = 0, float("-inf")
        """Entries of the last batch of the inbox, and when it was read."""

    def open(
        self, identity: str, *, idle_seconds: float, idle_count: int, count: int, most_bytes: int = READ_BYTES
    ) -> tuple[dict[Place, int], list[Received]]:
        """Begin a drain: let the next entry ring again, look for what dead drains left, and read if there is nothing.

        The bell is cleared before anything is read, so that no entry is missed.

        Args:
            identity: of the database that the entries will be stored in.
            idle_seconds: see `list_idle`.
            idle_count: bound of idle entries of each stream.
            count: bound of fresh ones.
            most_bytes: bound of what fresh ones bring, exceeded by `READ_STEP` entries at most.

        Returns:
            What `list_idle` would, and what `read` would; nothing is read before what is idle was taken over.

        Raises:
            ForeignRedisError: this inbox belongs to another database or environment; nothing was touched.
        """
        if self._broker is not self._client:
            with suppress(RedisError):  # the bell falls silent by itself
                self._broker.delete(self._names.bell)
        keys = (*self._streams, self._names.bell, self._names.identity)
        arguments = (
            wire.INBOX_GROUP,
            int(idle_seconds * 1000),
            idle_count,
            self._consumer,
            count,
            most_bytes,
            self._most_of_overflow(count),
            identity,
        )
        try:
            idle, fresh = self._grouped(lambda: self._client.eval(OPEN, len(keys), *keys, *arguments))
        except ResponseError as error:
            raise_if_foreign(error, identity)
            raise
        return self._idle(idle), self._fresh(fresh)

    def ring(self) -> None:
        """Ask for another drain."""
        keys, arguments = wire.ring_arguments(self._names)
        self._broker.eval(wire.RING, len(keys), *keys, *arguments)

    def read(self, count: int, *, most_bytes: int = READ_BYTES) -> list[Received]:
        """Take entries that no drain has had yet; returns at once.

        They are of one stream: of the inbox or, after a batch of that and while it is empty, of the overflow.

        Args:
            count: bound of entries; of the overflow, a quarter of it.
            most_bytes: bound of what they bring, exceeded by `READ_STEP` entries at most; the same.
        """
        turn = int(self._is_turn_of_overflow)
        arguments = (wire.INBOX_GROUP, self._consumer, count, most_bytes, self._most_of_overflow(count), turn)
        return self._fresh(self._grouped(lambda: self._client.eval(READ, 2, *self._streams, *arguments)))

    def list_idle(self, *, idle_seconds: float, count: int) -> dict[Place, int]:
        """Return what dead drains may have left, with how often it was delivered; nothing is taken.

        Looking comes first, because taking counts as a delivery: innocent entries must not be charged for a
        neighbour that ends its process.
        """
        return self._idle(
            self._grouped(
                lambda: self._client.eval(IDLE, 2, *self._streams, wire.INBOX_GROUP, int(idle_seconds * 1000), count)
            )
        )

    def take_over(
        self, idle: Mapping[Place, int], *, idle_seconds: float, most_bytes: int = READ_BYTES
    ) -> list[Received]:
        """Take entries that are still idle; whoever comes first gets them.

        Args:
            idle: some of what `list_idle` returned.
            idle_seconds: the same.
            most_bytes: bound of what those of a stream bring, exceeded by one entry at most; the rest stays idle.
        """
        taken: list[Received] = []
        by_stream: dict[str, list[bytes]] = defaultdict(list)
        for stream, stream_id in idle:
            by_stream[stream].append(stream_id)
        for stream, ids in by_stream.items():
            arguments: tuple[Any, ...] = (wire.INBOX_GROUP, self._consumer, int(idle_seconds * 1000), most_bytes, *ids)
            entries = self._grouped(partial(self._client.eval, TAKE_OVER, 1, stream, *arguments))
            taken += (_received(stream, entry, idle[Place(stream, entry[0])] + 1) for entry in entries)
        return taken

    def acknowledge(self, entries: Sequence[Received]) -> None:
        """Remove entries that are safe in Postgres: one round trip, all or nothing."""
        if not entries:
            return
        arguments: dict[str, list[Any]] = defaultdict(list)
        for entry in entries:
            stream, stream_id = entry.place
            arguments[stream] += (stream_id, entry.fields.get(b"tenant", b""), size(entry.fields))
        pipeline = self._client.pipeline(transaction=True)
        for stream, given in arguments.items():
            pipeline.eval(ACKNOWLEDGE, 2, stream, self._names.inbox_bytes, wire.INBOX_GROUP, *given)
        pipeline.execute()

    def have_overflowed(self, entries: Sequence[Received]) -> bool:
        """Say whether all of them were in the overflow."""
        return all(entry.place.stream == self._names.overflow for entry in entries)

    def give_back(self, entries: Sequence[Received], *, idle_seconds: float) -> None:
        """Undo the taking of entries that could not be stored through no fault of theirs.

        Their count of deliveries is lowered again, and any drain may take them over at once.
        """
        by_count: dict[tuple[str, int], list[bytes]] = defaultdict(list)
        for entry in entries:
            by_count[entry.place.stream, entry.deliveries].append(entry.place.stream_id)
        pipeline = self._client.pipeline(transaction=False)
        for (stream, deliveries), ids in by_count.items():
            pipeline.xclaim(
                stream,
                wire.INBOX_GROUP,
                self._consumer,
                0,
                cast("Any", ids),
                idle=int(idle_seconds * 1000) + 1,
                retrycount=deliveries - 1,
                justid=True,
            )
        pipeline.execute()

    def forget_idle_consumers(self) -> int:
        """Delete consumers that hold nothing and have been away for an hour; return how many."""
        return cast(
            "int",
            self._grouped(
                lambda: self._client.eval(FORGET, 2, *self._streams, wire.INBOX_GROUP, IDLE_CONSUMER_MILLISECONDS)
            ),
        )

    def _grouped(self, command: Callable[[], Any]) -> Any:
        """Run a command that needs the groups; make them if one is missing, as after a flush."""
        try:
            return command()
        except ResponseError as error:
            if "NOGROUP" not in str(error) and "no such key" not in str(error).lower():
                raise
        streams = self._streams
        for stream in streams if self._client.exists(self._names.overflow) else streams[:1]:
            try:
                self._client.eval(MAKE_GROUP, 1, stream, wire.INBOX_GROUP)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
        return command()

    def _idle(self, reply: Any) -> dict[Place, int]:
        """Return how often entries of a script's reply were delivered: lists of id, consumer, idle time and that."""
        pairs = zip(self._streams, reply, strict=True)
        return {Place(stream, entry[0]): entry[3] for stream, found in pairs for entry in found}

    def _fresh(self, reply: Any) -> list[Received]:
        """Return fresh entries of a script's reply: lists of ids and flat fields."""
        pairs = zip(self._streams, reply, strict=True)
        fresh = [_received(stream, entry, 1) for stream, entries in pairs for entry in entries]
        self._is_turn_of_overflow = bool(fresh) and not self.have_overflowed(fresh)
        if self._is_turn_of_overflow:
            self._inbox_batch, self._inbox_read_at = len(fresh), self._clock()
        return fresh

    def _most_of_overflow(self, count: int) -> int:
        """Return how many entries of the overflow are read where so many of the inbox would be."""
        if self._clock() - self._inbox_read_at > ACTIVE_SECONDS:
            return -(-count // OVERFLOW_PART)
        return -(-min(count, max(self._inbox_batch, SHORT)) // OVERFLOW_PART)


def _received(stream: str, entry: Any, deliveries: int) -> Received:
    """Return an entry of a script's reply; where a field name is repeated, each gets one of its own.

    So nothing of it is lost, and it is no envelope, whichever of the values somebody else would have read.
    """
    stream_id, flat = entry
    names, values = flat[::2], flat[1::2]
    if len(set(names)) < len(names):
        names = [b"%s (field %d)" % (name, number) for number, name in enumerate(names, 1)]
    fields = dict(zip(names, values, strict=True))
    return Received(place=Place(stream, stream_id), fields=fields, deliveries=deliveries)
