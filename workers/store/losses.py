"""What the sweeper finds of open work: leases that ended, messages that were lost, handlers that nobody knows.

Guarantees: as in `workers.store.deliveries`; what another sweeper holds is left to it. Queries are in
`losses.sql`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workers.store.deliveries import Claimed
from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from workers.store.connect import Connection

_QUERIES: Final = Queries("losses.sql")


def list_expired(connection: Connection) -> list[dict[str, Any]]:
    """Lock and return running deliveries past their lease: rows of event, handler, tenant, attempt, fence, alone."""
    return connection.execute(_QUERIES["list_expired"]).fetchall()


def return_uncharged(connection: Connection, lost: Sequence[dict[str, Any]], *, error: str) -> None:
    """Return what was lost in company: uncounted, and alone from now on."""
    parameters = {
        "event_ids": [row["event_id"] for row in lost],
        "handlers": [row["handler"] for row in lost],
        "error": error,
    }
    connection.execute(_QUERIES["return_uncharged"], parameters)


def keep_alone(connection: Connection, handler: str, event_ids: Sequence[UUID]) -> None:
    """Let deliveries that were lost alone run alone again."""
    connection.execute(_QUERIES["keep_alone"], {"handler": handler, "event_ids": list(event_ids)})


def return_queued(connection: Connection, *, margin: float) -> int:
    """Return queued deliveries whose wait ends within `margin` seconds; return how many."""
    return connection.execute(_QUERIES["return_queued"], {"margin": margin}).rowcount


def claim_unknown(connection: Connection, handler: str, event_ids: Sequence[UUID], *, worker: str) -> list[Claimed]:
    """Claim deliveries whose handler the receiving worker does not know, to record that as their outcome."""
    parameters = {"handler": handler, "event_ids": list(event_ids), "worker": worker}
    return [Claimed(**row) for row in connection.execute(_QUERIES["claim_unknown"], parameters)]
