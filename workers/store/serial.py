"""Handlers that run one delivery of a subject at a time, oldest first by arrival.

    pending, ready ──an older one is open, or one is in flight──▶ parked ──that one has ended──▶ pending, ready

Guarantees: of the deliveries of a handler, a tenant and a subject at most one is queued or running, and none before an
older one has succeeded or is dead. Others are not held up. Queries are in `serial.sql`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from psycopg.rows import tuple_row

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from workers.store.connect import Connection
    from workers.store.deliveries import Candidate

_QUERIES: Final = Queries("serial.sql")


def declare_serial(connection: Connection, *, serial: Sequence[str], others: Sequence[str]) -> None:
    """Say which handlers are serial, and which are not; deliveries that are made from now on follow it."""
    connection.execute(_QUERIES["declare_serial"], {"serial": list(serial), "others": list(others)})


def park_blocked(connection: Connection, candidates: Sequence[Candidate]) -> set[tuple[UUID, str]]:
    """Park candidates that wait for another of their subject, in the transaction of an admission; return which."""
    parameters = {
        "event_ids": [candidate.event_id for candidate in candidates],
        "handlers": [candidate.handler for candidate in candidates],
    }
    return set(connection.cursor(row_factory=tuple_row).execute(_QUERIES["park_blocked"], parameters).fetchall())
