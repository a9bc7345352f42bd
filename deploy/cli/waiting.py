"""Waits until acknowledged events have come to their end.

Guarantees: the wait ends when every event has, or when nothing more has for a given time. Refuses nothing; Postgres
being away for a while counts as nothing happening.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import psycopg

from workers.store.connect import PostgresConnection
from workers.store.stats import Fate, read_fates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

_UNFINISHED: Final = (Fate.NOT_STORED, Fate.OPEN)
_CHUNK: Final = 2000
"""Ids asked for at once: those sent first finish first, so a look at the oldest is enough."""
_POLL_SECONDS: Final = 0.1


def follow(database_url: str, ids: Sequence[UUID], *, patience: float) -> Iterator[Counter[Fate]]:
    """Yield what has become of the ids so far, until all have come to an end.

    Args:
        database_url: where to look.
        ids: of acknowledged events.
        patience: seconds without any change after which the wait is given up; the last value then has unfinished ones.
    """
    postgres = PostgresConnection(database_url, name="pipeline send")
    fates: dict[UUID, Fate] = dict.fromkeys(ids, Fate.NOT_STORED)
    unfinished, changed = list(ids), time.monotonic()
    try:
        while unfinished and time.monotonic() - changed < patience:
            seen = _look(postgres, unfinished[:_CHUNK])
            if any(fates[event_id] != fate for event_id, fate in seen.items()):
                changed = time.monotonic()
            fates |= seen
            unfinished = [event_id for event_id in unfinished if fates[event_id] in _UNFINISHED]
            yield Counter(fates.values())
            if all(fate in _UNFINISHED for fate in seen.values()):
                unfinished = unfinished[_CHUNK:] + unfinished[:_CHUNK]  # do not stare at ones that hang
            if unfinished:
                time.sleep(_POLL_SECONDS)
        yield Counter(fates.values())
    finally:
        postgres.close()


def _look(postgres: PostgresConnection, ids: Sequence[UUID]) -> dict[UUID, Fate]:
    try:
        return read_fates(postgres.connection, ids)
    except psycopg.OperationalError:
        return {}
