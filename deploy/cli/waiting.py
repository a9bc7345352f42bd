"""Waits until acknowledged events have come to their end."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import psycopg

from deploy.cli.errors import explain
from workers.store.connect import PostgresConnection
from workers.store.stats import Fate, read_fates

_UNFINISHED: Final = (Fate.NOT_STORED, Fate.OPEN)
_CHUNK: Final = 2000
"""Ids asked for at once: those sent first finish first, so a look at the oldest is enough."""


@dataclass(slots=True)
class Seen:
    """What Postgres said so far: how many events came to what, and of how many it did not say, with its error."""

    fates: Counter[Fate] = field(default_factory=Counter)
    unknown: int = 0
    error: str = ""

    @property
    def finished(self) -> int:
        """Return how many events have come to their end."""
        return self.fates.total() - sum(self.fates[fate] for fate in _UNFINISHED)


def follow(
    database_url: str, ids: Sequence[UUID], *, patience: float, schema: str = "", poll_seconds: float = 0.1
) -> Iterator[Seen]:
    """Yield what was seen so far, until all events have come to their end.

    After `patience` seconds without any change the wait is given up, and the last value has unfinished events. Postgres
    being away for a while counts as no change.
    """
    postgres = PostgresConnection(database_url, name="pipeline send", schema=schema)
    fates: dict[UUID, Fate] = {}
    unfinished, changed, error = list(ids), time.monotonic(), ""
    try:
        while unfinished and time.monotonic() - changed < patience:
            chunk = unfinished[:_CHUNK]
            try:
                seen, error = read_fates(postgres.connection, chunk), ""
            except psycopg.OperationalError as caught:
                # what was seen of these before says nothing of now
                seen, error = {}, explain(caught) or str(caught)
                fates = {event_id: fate for event_id, fate in fates.items() if fate not in _UNFINISHED}
            if any(fates.get(event_id) != fate for event_id, fate in seen.items()):
                changed = time.monotonic()
            fates |= seen
            unfinished = [event_id for event_id in unfinished if fates.get(event_id, Fate.OPEN) in _UNFINISHED]
            if all(fate in _UNFINISHED for fate in seen.values()):
                unfinished = unfinished[_CHUNK:] + unfinished[:_CHUNK]  # do not look only at ones that hang
            yield Seen(Counter(fates.values()), len(ids) - len(fates), error)
            if unfinished:
                time.sleep(poll_seconds)
    finally:
        postgres.close()
