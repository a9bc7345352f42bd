"""The drain: from the inbox to Postgres.

Guarantees: an entry is acknowledged only after the commit that stores it; nothing piles up in a drain's hands while
Postgres is away; what ends a process again and again ends as `poison`, and only that. Refuses nothing: an error of
Postgres or Redis reaches the caller, and what was taken is given back.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from workers.judging import judge
from workers.store.events import Counts, StoreError, answer, store_batch
from workers.stream import SUSPECT_DELIVERIES, RedisError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from workers.judging import Wanting
    from workers.store.connect import Connection
    from workers.store.events import Entry
    from workers.stream import InboxReader, Received

FIRST_READ: Final = 100
"""Entries read at first, before their size is known."""
READ_BYTES: Final = 32 * 1024 * 1024
"""What one read should bring at most, and one transaction holds."""


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
    wanting: Wanting,
    settings: DrainSettings,
    on_stored: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> DrainCounts:
    """Store what waits in the inbox.

    1. Clear the bell: from here on a new entry rings again.
    2. Make sure that Postgres answers; else nothing is taken.
    3. Take over what dead drains left: together at first, suspects one by one.
    4. Read, judge, store, acknowledge; after each commit call `on_stored` if it made deliveries.
    5. When the inbox is empty, stop. When the time is over, ring for another drain.

    Args:
        reader: this process's consumer of the inbox.
        connection: outside a transaction.
        wanting: the registry of handlers.
        settings: batch size and times.
        on_stored: called after each commit that made deliveries.
        clock: seconds.

    Raises:
        psycopg.Error: Postgres is away or unwell; what was taken is given back.
        redis.RedisError: Redis is away; what was taken will be taken over.
    """
    reader.clear_bell()
    answer(connection)
    run = _Run(reader, connection, wanting, on_stored, reclaim_seconds=settings.reclaim_seconds)
    ends = clock() + settings.drain_seconds
    for batch in _take(reader, settings):
        run.store(batch)
        if clock() >= ends:
            reader.ring()
            break
    return DrainCounts(
        stored=run.counts.accepted,
        duplicates=run.counts.duplicates,
        rejected=run.counts.rejected,
        read=run.read,
    )


def _take(reader: InboxReader, settings: DrainSettings) -> Iterator[Sequence[Received]]:
    """Yield batches, each taken only when the one before is safe, until the inbox is empty."""
    idle_seconds = settings.reclaim_seconds
    while idle := reader.list_idle(idle_seconds=idle_seconds, count=settings.drain_batch):
        company = {stream_id: count for stream_id, count in idle.items() if count + 1 < SUSPECT_DELIVERIES}
        yield reader.take_over(company, idle_seconds=idle_seconds)
        for stream_id, count in idle.items():
            if stream_id not in company:
                yield reader.take_over({stream_id: count}, idle_seconds=idle_seconds)
    count = min(FIRST_READ, settings.drain_batch)
    while batch := reader.read(count):
        yield batch
        size = sum(len(entry.fields.get(b"body", b"")) for entry in batch)
        count = max(1, min(settings.drain_batch, READ_BYTES * len(batch) // max(size, 1)))


class _Run:
    """Stores batches and counts."""

    def __init__(
        self,
        reader: InboxReader,
        connection: Connection,
        wanting: Wanting,
        on_stored: Callable[[], object],
        *,
        reclaim_seconds: float,
    ) -> None:
        self._reader = reader
        self._connection = connection
        self._wanting = wanting
        self._on_stored = on_stored
        self._reclaim_seconds = reclaim_seconds
        self.counts = Counts()
        self.read = 0

    def store(self, batch: Sequence[Received]) -> None:
        """Judge, store, acknowledge.

        When Postgres fails or the process is told to stop, the entries go back as if never taken. After any other
        error they stay taken: counted, they come again alone, and end as poison if they are the cause.
        """
        for portion in _in_portions(batch):
            try:
                counts = store_batch(self._connection, [self._judge(entry) for entry in portion])
            except (StoreError, SystemExit, KeyboardInterrupt):
                with suppress(RedisError):
                    self._reader.give_back(batch, idle_seconds=self._reclaim_seconds)
                raise
            self._reader.acknowledge(portion)
            self.counts = self.counts.plus(counts)
            self.read += len(portion)
            if counts.deliveries:
                self._on_stored()

    def _judge(self, entry: Received) -> Entry:
        return judge(entry.stream_id, entry.fields, deliveries=entry.deliveries, wanting=self._wanting)


def _in_portions(batch: Sequence[Received]) -> Iterator[Sequence[Received]]:
    """Split a batch so that a transaction holds a bounded number of bytes, and at least one entry."""
    portion: list[Received] = []
    size = 0
    for entry in batch:
        length = len(entry.fields.get(b"body", b""))
        if portion and size + length > READ_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(entry)
        size += length
    if portion:
        yield portion
