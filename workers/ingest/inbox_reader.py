"""The inbox as the drains read it: the only file of the ingest side that speaks Redis.

Guarantees: an entry stays in the inbox until it is acknowledged; entries of dead consumers are taken over, suspects
(delivered several times) one by one, so that only what ends its process again and again is counted so often. A missing
group is created at the beginning of the stream, whenever it is found missing. Refuses nothing: an unreachable Redis is
redis-py's `ConnectionError` or `TimeoutError`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from redis.exceptions import RedisError, ResponseError

from shared import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from redis import Redis

__all__ = ["InboxReader", "Received", "RedisError"]

T = TypeVar("T")

SUSPECT_DELIVERIES: Final = 3
"""From this delivery on, an entry is processed alone."""
IDLE_CONSUMER_MILLISECONDS: Final = 3_600_000

_FORGET: Final = """
local gone = 0
for _, pairs in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #pairs, 2 do consumer[pairs[i]] = pairs[i + 1] end
  if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer['name'])
    gone = gone + 1
  end
end
return gone
"""
"""Lua, so that no consumer takes an entry between the look and the deletion, which would drop that entry."""

_OPEN: Final = """
redis.call('DEL', KEYS[2])
local idle = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[2], '-', '+', ARGV[3])
if #idle > 0 then return {idle, {}} end
local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[4], 'COUNT', ARGV[5], 'STREAMS', KEYS[1], '>')
return {idle, read and read[1][2] or {}}
"""
"""Lua, so that a drain at rest begins with one round trip and one sync of the disk. KEYS inbox, bell; ARGV group, idle
milliseconds, bound of idle entries, consumer, bound of fresh ones. Returns idle entries, or else fresh ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An entry that is ours until it is acknowledged or taken over.

    Attributes:
        stream_id: its place in the stream, such as b"1700000000000-0".
        fields: as the ingress wrote them.
        deliveries: how often it was given to a drain, this time included.
    """

    stream_id: bytes
    fields: Mapping[bytes, bytes]
    deliveries: int


class InboxReader:
    """One consumer of the inbox."""

    def __init__(self, client: Redis, *, consumer: str, ingest_slots: int) -> None:
        """Make a reader.

        Args:
            client: returns bytes, not text.
            consumer: unique per process, ever: entries that it holds are only taken over when they are idle.
            ingest_slots: bounds the doorbells that wait.
        """
        self._client = client
        self._consumer = consumer
        self._ingest_slots = ingest_slots

    def open(self, *, idle_seconds: float, idle_count: int, count: int) -> tuple[dict[bytes, int], list[Received]]:
        """Begin a drain: let the next entry ring again, look for what dead drains left, and read if there is nothing.

        The bell is cleared before anything is read, so that no entry is missed.

        Args:
            idle_seconds: see `list_idle`.
            idle_count: bound of idle entries.
            count: bound of fresh ones.

        Returns:
            What `list_idle` would, and what `read` would; nothing is read before what is idle was taken over.
        """
        idle, fresh = self._grouped(
            lambda: self._client.eval(
                _OPEN, 2, wire.INBOX, wire.BELL, wire.INBOX_GROUP, int(idle_seconds * 1000), idle_count,
                self._consumer, count,
            )
        )  # fmt: skip
        return (
            {entry[0]: entry[3] for entry in idle},
            [
                Received(stream_id=entry[0], fields=dict(zip(entry[1][::2], entry[1][1::2], strict=True)), deliveries=1)
                for entry in fresh
            ],
        )

    def ring(self) -> None:
        """Ask for another drain."""
        keys, arguments = wire.ring_arguments(self._ingest_slots)
        self._client.eval(wire.RING, len(keys), *keys, *arguments)

    def read(self, count: int) -> list[Received]:
        """Take up to `count` entries that no drain has had yet; returns at once."""
        reply = self._grouped(
            lambda: self._client.xreadgroup(wire.INBOX_GROUP, self._consumer, {wire.INBOX: ">"}, count=count)
        )
        return [Received(stream_id=stream_id, fields=fields, deliveries=1) for stream_id, fields in _entries_of(reply)]

    def list_idle(self, *, idle_seconds: float, count: int) -> dict[bytes, int]:
        """Return what dead drains may have left, by id, with how often it was delivered; nothing is taken.

        Looking comes first, because taking counts as a delivery: innocent entries must not be charged for a
        neighbour that ends its process.
        """
        pending = self._grouped(
            lambda: self._client.xpending_range(
                wire.INBOX, wire.INBOX_GROUP, min="-", max="+", count=count, idle=int(idle_seconds * 1000)
            )
        )
        return {entry["message_id"]: entry["times_delivered"] for entry in cast("list[dict[str, Any]]", pending)}

    def take_over(self, idle: Mapping[bytes, int], *, idle_seconds: float) -> list[Received]:
        """Take entries that are still idle; whoever comes first gets them.

        Args:
            idle: some of what `list_idle` returned.
            idle_seconds: the same.
        """
        if not idle:
            return []
        reply = self._grouped(
            lambda: self._client.xclaim(
                wire.INBOX, wire.INBOX_GROUP, self._consumer, int(idle_seconds * 1000), list(idle)
            )
        )
        return [
            Received(stream_id=stream_id, fields=fields, deliveries=idle[stream_id] + 1)
            for stream_id, fields in _pairs_of(reply)
        ]

    def acknowledge(self, entries: Sequence[Received]) -> None:
        """Remove entries that are safe in Postgres: one round trip, both or neither."""
        if not entries:
            return
        ids = [entry.stream_id for entry in entries]
        pipeline = self._client.pipeline(transaction=True)
        pipeline.xack(wire.INBOX, wire.INBOX_GROUP, *ids)
        pipeline.xdel(wire.INBOX, *ids)
        pipeline.execute()

    def give_back(self, entries: Sequence[Received], *, idle_seconds: float) -> None:
        """Undo the taking of entries that could not be stored through no fault of theirs.

        Their count of deliveries is lowered again, and any drain may take them over at once.
        """
        by_count: dict[int, list[bytes]] = defaultdict(list)
        for entry in entries:
            by_count[entry.deliveries].append(entry.stream_id)
        pipeline = self._client.pipeline(transaction=False)
        for deliveries, ids in by_count.items():
            pipeline.xclaim(
                wire.INBOX,
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
                lambda: self._client.eval(_FORGET, 1, wire.INBOX, wire.INBOX_GROUP, IDLE_CONSUMER_MILLISECONDS)
            ),
        )

    def _grouped(self, command: Callable[[], T]) -> T:
        """Run a command that needs the group; make the group if it is missing, as after a flush."""
        try:
            return command()
        except ResponseError as error:
            if "NOGROUP" not in str(error) and "no such key" not in str(error).lower():
                raise
        try:
            self._client.xgroup_create(wire.INBOX, wire.INBOX_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        return command()


def _entries_of(reply: Any) -> Iterable[tuple[bytes, Mapping[bytes, bytes]]]:
    """Read a reply of XREADGROUP for one stream: a list of pairs in RESP2, a map in RESP3, nothing when empty."""
    if not reply:
        return []
    if isinstance(reply, dict):
        (groups,) = reply.values()
        return [pair for group in groups for pair in (group if isinstance(group, list) else [group])]
    ((_, entries),) = reply
    return cast("Iterable[tuple[bytes, Mapping[bytes, bytes]]]", entries)


def _pairs_of(reply: Any) -> Iterable[tuple[bytes, Mapping[bytes, bytes]]]:
    """Read a reply of XCLAIM; entries that are no longer in the stream come as nothing."""
    return [(pair[0], pair[1]) for pair in reply or () if pair is not None and pair[1] is not None]
