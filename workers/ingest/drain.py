"""The drain: from the inbox to Postgres.

An entry is acknowledged only after the commit that stores it. While Postgres is away, nothing is taken. An entry that
ends its process again and again is rejected as `poison`, and only that one. An error of Postgres or Redis reaches the
caller, and what was taken is given back.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from shared import traces
from workers.ingest.inbox_reader import READ_BYTES, SUSPECT_DELIVERIES, RedisError
from workers.ingest.parsing import parse_entry
from workers.store.events import DATA_ERRORS, Counts, StoreError, ping, store_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from workers.ingest.inbox_reader import InboxReader, Place, Received
    from workers.store.connect import Connection
    from workers.store.entry import Entry
    from workers.store.events import Catalogue

FIRST_READ: Final = 100
"""Entries read at first: at rest there are few."""


class DrainSettings(Protocol):
    """What a drain needs of the settings; see `workers.settings`."""

    @property
    def drain_batch(self) -> int:
        """Entries of one transaction."""

    @property
    def drain_seconds(self) -> float:
        """Time budget, seconds."""

    @property
    def reclaim_seconds(self) -> float:
        """Idle time after which an entry is taken over, seconds."""

    @property
    def dedup_days(self) -> int:
        """Days in which the same event counts once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainCounts:
    """What a drain did.

    Attributes:
        stored: new events, accepted.
        duplicates: arrivals of events that were there.
        rejected: new events, rejected.
        read: entries, those included that had been stored before a crash.
    """

    stored: int
    duplicates: int
    rejected: int
    read: int


def drain(
    reader: InboxReader,
    connection: Connection,
    *,
    identity: str,
    catalogue: Catalogue,
    settings: DrainSettings,
    on_stored: Callable[[bool], object] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> DrainCounts:
    """Store what waits in the inbox.

    1. Make sure that Postgres answers; else nothing is taken.
    2. See that the inbox belongs to this database. Clear the bell: from here on a new entry rings again.
    3. Take over what dead drains left: together at first, suspects one by one.
    4. Read, parse, store, acknowledge; after each commit call `on_stored` if it made deliveries.
    5. When the inbox is empty, stop. When the time is over, ring for another drain.

    Args:
        reader: this process's consumer of the inbox.
        connection: outside a transaction.
        identity: of its database, as `workers.store.identity` tells it.
        catalogue: decides which deliveries are made.
        settings: batch size and times.
        on_stored: called after each commit that made deliveries, and told whether all of them were in the overflow.
        clock: seconds.

    Raises:
        psycopg.Error: Postgres is away or unwell; what was taken is given back.
        redis.RedisError: Redis is away; what was taken will be taken over.
        ForeignRedisError: the inbox belongs to another database or environment; nothing was taken.
    """
    ping(connection)
    idle, fresh = reader.open(
        identity,
        idle_seconds=settings.reclaim_seconds,
        idle_count=settings.drain_batch,
        count=min(FIRST_READ, settings.drain_batch),
        most_bytes=READ_BYTES,
    )
    run = _Run(reader, connection, catalogue, on_stored, settings=settings, clock=clock)
    if not (run.take_over(idle) and run.store_fresh(fresh)):
        reader.ring()
    return DrainCounts(
        stored=run.counts.accepted,
        duplicates=run.counts.duplicates,
        rejected=run.counts.rejected,
        read=run.read,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Entries that are ours, and what was parsed from them."""

    received: Sequence[Received]
    entries: Sequence[Entry]


class _Run:
    """One drain at work."""

    def __init__(
        self,
        reader: InboxReader,
        connection: Connection,
        catalogue: Catalogue,
        on_stored: Callable[[bool], object],
        *,
        settings: DrainSettings,
        clock: Callable[[], float],
    ) -> None:
        self._reader = reader
        self._connection = connection
        self._catalogue = catalogue
        self._on_stored = on_stored
        self._idle_seconds = settings.reclaim_seconds
        self._most = settings.drain_batch
        self._dedup_days = settings.dedup_days
        self._clock = clock
        self._ends = clock() + settings.drain_seconds
        self.counts = Counts()
        self.read = 0

    def take_over(self, idle: Mapping[Place, int]) -> bool:
        """Claim and store entries that drains left pending when they died; return False if the time budget is used up.

        Suspects are taken one by one, so that only the one that ends this process is counted again.
        """
        while idle:
            together = {place: count for place, count in idle.items() if count + 1 < SUSPECT_DELIVERIES}
            suspects = [{place: count} for place, count in idle.items() if place not in together]
            for group in (together, *suspects):
                self.store(self._parse(self._take_over(group)))
                if self._clock() >= self._ends:
                    return False
            idle = self._reader.list_idle(idle_seconds=self._idle_seconds, count=self._most)
        return True

    def store_fresh(self, received: Sequence[Received]) -> bool:
        """Store what no drain has had yet, until nothing is left; return False if the time budget is used up.

        `open` has read the first entries already, unless there were idle ones.
        """
        batch = self._parse(received) if received else self._next()
        while batch.received:
            over = self._clock() >= self._ends
            self.store(batch)
            if over:
                return False
            batch = self._next()
        return True

    def store(self, batch: _Batch) -> None:
        """Store, have it admitted, acknowledge.

        When Postgres fails or the process is told to stop, the entries go back as if never taken. After any other
        error, one about the data included, they stay taken: counted, they come again alone, and end as poison if they
        are the cause.
        """
        done = 0
        try:
            for size in _portions(batch.entries):
                began = time.time_ns()
                counts = store_batch(self._connection, batch.entries[done : done + size], self._catalogue)
                stored = batch.received[done : done + size]
                traces.current().stored(batch.entries[done : done + size], began)
                done += size
                self.counts = self.counts.plus(counts)
                self.read += size
                try:
                    if counts.deliveries:
                        self._on_stored(self._reader.have_overflowed(stored))
                finally:
                    self._reader.acknowledge(stored)
        except DATA_ERRORS:
            raise
        except (StoreError, SystemExit, KeyboardInterrupt):
            with suppress(RedisError):
                self._give_back(batch.received[done:])
            raise

    def _next(self) -> _Batch:
        return self._parse(self._reader.read(self._most, most_bytes=READ_BYTES))

    def _parse(self, received: Sequence[Received]) -> _Batch:
        entries = [
            parse_entry(
                each.place.stream_id,
                each.fields,
                deliveries=each.deliveries,
                dedup_days=self._dedup_days,
            )
            for each in received
        ]
        return _Batch(received=received, entries=entries)

    def _take_over(self, idle: Mapping[Place, int]) -> Sequence[Received]:
        return self._reader.take_over(idle, idle_seconds=self._idle_seconds, most_bytes=READ_BYTES)

    def _give_back(self, received: Sequence[Received]) -> None:
        self._reader.give_back(received, idle_seconds=self._idle_seconds)


def _portions(entries: Sequence[Entry]) -> Iterator[int]:
    """Yield how many entries go into each transaction: a bounded number of bytes, and at least one entry."""
    count = size = 0
    for entry in entries:
        if count and size + len(entry.body) > READ_BYTES:
            yield count
            count = size = 0
        count += 1
        size += len(entry.body)
    if count:
        yield count
