"""What the sweeper recovers: expired leases, lost messages, deliveries of handlers that no worker knows.

Transitions are conditional, as in `workers.store.deliveries`; rows that another sweeper has locked are skipped. Queries
are in `recovery.sql`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from workers.store.connect import Connection

_QUERIES: Final = Queries("recovery.sql")


def list_expired(connection: Connection) -> list[dict[str, Any]]:
    """Lock and return running deliveries past their lease: rows of event, handler, tenant, attempt, fence, alone."""
    return connection.execute(_QUERIES["list_expired"]).fetchall()


def return_uncharged(connection: Connection, lost: Sequence[dict[str, Any]], *, error: str) -> None:
    """Return deliveries that were lost together: the attempt is not counted, and each runs alone from now on."""
    parameters = {
        "event_ids": [row["event_id"] for row in lost],
        "handlers": [row["handler"] for row in lost],
        "error": error,
    }
    connection.execute(_QUERIES["return_uncharged"], parameters)


def count_lost(connection: Connection, lost: Sequence[dict[str, Any]]) -> None:
    """Count claims whose worker was lost."""
    parameters = {"tenants": [row["tenant"] for row in lost], "handlers": [row["handler"] for row in lost]}
    connection.execute(_QUERIES["count_lost"], parameters)


def keep_alone(connection: Connection, handler: str, event_ids: Sequence[UUID]) -> None:
    """Let deliveries that were lost alone run alone again."""
    connection.execute(_QUERIES["keep_alone"], {"handler": handler, "event_ids": list(event_ids)})


def have_queued_late(connection: Connection) -> bool:
    """Say whether some queued delivery has waited so long that its message may be lost."""
    return any(row["late"] for row in connection.execute(_QUERIES["have_queued_late"]))


def are_queued_late(connection: Connection, named: Collection[tuple[UUID, str]]) -> bool:
    """Say whether one of these (event, handler) pairs has been queued so long that its message may be lost."""
    return any(row["late"] for row in connection.execute(_QUERIES["are_queued_late"], _pairs(named)))


def return_queued(connection: Connection, named: Collection[tuple[UUID, str]]) -> int:
    """Return queued deliveries whose wait is over, but for the (event, handler) pairs named; return how many."""
    return connection.execute(_QUERIES["return_queued"], _pairs(named)).rowcount


def list_ready_handlers(connection: Connection) -> list[str]:
    """Return the names of the handlers that something is due for."""
    return [row["handler"] for row in connection.execute(_QUERIES["list_ready_handlers"])]


def return_unknown(connection: Connection, handler: str, event_ids: Sequence[UUID], *, error: str, wait: float) -> int:
    """Return queued deliveries whose handler the receiving worker does not know; return how many.

    They are due in `wait` seconds, and no attempt is counted.
    """
    parameters = {"handler": handler, "event_ids": list(event_ids), "error": error, "wait": wait}
    return connection.execute(_QUERIES["return_unknown"], parameters).rowcount


def _pairs(named: Collection[tuple[UUID, str]]) -> dict[str, list[Any]]:
    return {"event_ids": [event_id for event_id, _ in named], "handlers": [handler for _, handler in named]}
