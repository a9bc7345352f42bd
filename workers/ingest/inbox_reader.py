"""The inbox as the drains read it: the only file of `workers.ingest` that uses Redis.

An entry stays in the inbox until it is acknowledged. Entries of dead consumers are taken over; suspects (delivered
several times) one by one, so that only the entry that ends its process reaches the limit. A missing consumer group is
created at the beginning of the stream, whenever it is found missing. While Redis is unreachable, calls raise redis-py's
`ConnectionError` or `TimeoutError`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from redis.exceptions import RedisError, ResponseError

from shared import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis import Redis

__all__ = ["InboxReader", "Received", "RedisError"]

T = TypeVar("T")

SUSPECT_DELIVERIES: Final = 3
"""From this delivery on, an entry is processed alone."""
READ_BYTES: Final = 32 * 1024 * 1024
"""What one read brings at most, but for the last entries of it."""
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

_READ_BOUNDED: Final = """
local function read_bounded(inbox, group, consumer, count, bytes)
  local entries = {}
  while #entries < count and bytes > 0 do
    local step = math.min(%d, count - #entries)
    local read = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', step, 'STREAMS', inbox, '>')
    if not read then break end
    for _, entry in ipairs(read[1][2]) do
      entries[#entries + 1] = entry
      for i = 2, #entry[2], 2 do bytes = bytes - #entry[2][i] end
    end
    if #read[1][2] < step then break end
  end
  return entries
end
"""
"""Lua, so that a batch is bounded in bytes before it is sent: COUNT alone may bring a gigabyte of large bodies."""
READ_STEP: Final = 16
"""Entries read at once within that bound, and by which it may be exceeded."""

_READ: Final = (
    _READ_BOUNDED % READ_STEP + "return read_bounded(KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]))"
)
"""KEYS inbox; ARGV group, consumer, bound of entries, bound of bytes."""

_OPEN: Final = (
    _READ_BOUNDED % READ_STEP
    + """
redis.call('DEL', KEYS[2])
local idle = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[2], '-', '+', ARGV[3])
if #idle > 0 then return {idle, {}} end
return {idle, read_bounded(KEYS[1], ARGV[1], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]))}
"""
)
"""Lua, so that a drain at rest begins with one round trip and one sync of the disk. KEYS inbox, bell; ARGV group, idle
milliseconds, bound of idle entries, consumer, bounds of fresh ones. Returns idle entries, or else fresh ones."""

_TAKE_OVER: Final = """
local entries, bytes = {}, tonumber(ARGV[4])
for i = 5, #ARGV do
  if bytes <= 0 then break end
  for _, entry in ipairs(redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[i])) do
    entries[#entries + 1] = entry
    for j = 2, #entry[2], 2 do bytes = bytes - #entry[2][j] end
  end
end
return entries
"""
"""KEYS inbox; ARGV group, consumer, idle milliseconds, bound of bytes, ids. Returns what was taken."""


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

    def open(
        self, *, idle_seconds: float, idle_count: int, count: int, most_bytes: int = READ_BYTES
    ) -> tuple[dict[bytes, int], list[Received]]:
        """Begin a drain: let the next entry ring again, look for what dead drains left, and read if there is nothing.

        The bell is cleared before anything is read, so that no entry is missed.

        Args:
            idle_seconds: see `list_idle`.
            idle_count: bound of idle entries.
            count: bound of fresh ones.
            most_bytes: bound of what fresh ones bring, exceeded by `READ_STEP` entries at most.

        Returns:
            What `list_idle` would, and what `read` would; nothing is read before what is idle was taken over.
        """
        idle, fresh = self._grouped(
            lambda: self._client.eval(
                _OPEN, 2, wire.INBOX, wire.BELL, wire.INBOX_GROUP, int(idle_seconds * 1000), idle_count,
                self._consumer, count, most_bytes,
            )
        )  # fmt: skip
        return (
            {entry[0]: entry[3] for entry in idle},
            _first_deliveries(fresh),
        )

    def ring(self) -> None:
        """Ask for another drain."""
        keys, arguments = wire.ring_arguments(self._ingest_slots)
        self._client.eval(wire.RING, len(keys), *keys, *arguments)

    def read(self, count: int, *, most_bytes: int = READ_BYTES) -> list[Received]:
        """Take entries that no drain has had yet; returns at once.

        Args:
            count: bound of entries.
            most_bytes: bound of what they bring, exceeded by `READ_STEP` entries at most.
        """
        reply = self._grouped(
            lambda: self._client.eval(_READ, 1, wire.INBOX, wire.INBOX_GROUP, self._consumer, count, most_bytes)
        )
        return _first_deliveries(reply)

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

    def take_over(
        self, idle: Mapping[bytes, int], *, idle_seconds: float, most_bytes: int = READ_BYTES
    ) -> list[Received]:
        """Take entries that are still idle; whoever comes first gets them.

        Args:
            idle: some of what `list_idle` returned.
            idle_seconds: the same.
            most_bytes: bound of what they bring, exceeded by one entry at most; the rest stays idle.
        """
        if not idle:
            return []
        arguments: tuple[Any, ...] = (wire.INBOX_GROUP, self._consumer, int(idle_seconds * 1000), most_bytes, *idle)
        reply = self._grouped(lambda: self._client.eval(_TAKE_OVER, 1, wire.INBOX, *arguments))
        return [replace(taken, deliveries=idle[taken.stream_id] + 1) for taken in _first_deliveries(reply)]

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


def _first_deliveries(entries: Any) -> list[Received]:
    """Return fresh entries of a script's reply: a list of ids and of flat fields."""
    return [
        Received(stream_id=entry[0], fields=dict(zip(entry[1][::2], entry[1][1::2], strict=True)), deliveries=1)
        for entry in entries
    ]
