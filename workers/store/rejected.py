"""Rejected events that are parsed again after a fix.

An event becomes accepted once, with its deliveries, in one transaction. One that turns out to be another event's
duplicate stays rejected. Errors of Postgres reach the caller.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from psycopg import DataError, Error, IntegrityError, rows

from workers.store.catalogue import read_version
from workers.store.entry import notes_array
from workers.store.events import insert_deliveries, insert_receipts
from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from workers.store.connect import Connection
    from workers.store.entry import Entry
    from workers.store.events import Catalogue

_QUERIES: Final = Queries("events.sql")
DUPLICATE: Final = "duplicate"
REASONS: Final = 100
REASON_BOUND: Final = 10_000
_NIL: Final = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedEvent:
    """A stored event that was rejected, as it was received."""

    id: UUID
    provider: str
    tenant: str
    received_at: datetime
    headers: dict[str, str]
    body: bytes
    secret_label: str
    reject_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reprocessed:
    """What came of parsing one event again.

    Attributes:
        outcome: "accepted", "rejected" (still), "duplicate" (of `same_as`), "not_rejected", "not_found" or "failed".
        reason: why it is rejected, or the type of the error that it failed with; None otherwise.
        handlers: that got a delivery.
        same_as: the event that it is a duplicate of.
        tenant: whose event it is; None if it was not found.
    """

    event_id: UUID
    outcome: str
    reason: str | None = None
    handlers: tuple[str, ...] = ()
    same_as: UUID | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Events that were rejected for one reason.

    Attributes:
        count: up to `REASON_BOUND`.
        newest_id: of the last of them, which tells when it was received.
    """

    reason: str
    count: int
    newest_id: UUID


def list_reasons(connection: Connection) -> list[Reason]:
    """Return for which reasons events were rejected, a hundred at the most, by name."""
    values = {"bound": REASON_BOUND, "most": REASONS}
    with connection.cursor(row_factory=rows.class_row(Reason)) as cursor:
        return cursor.execute(_QUERIES["list_reasons"], values, prepare=False).fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowed:
    """Which rejected events are meant; None does not narrow."""

    event_ids: Sequence[UUID] | None = None
    reason: str | None = None
    tenant: str | None = None
    provider: str | None = None

    @property
    def is_a_list(self) -> bool:
        """Whether they are named one by one, and by nothing else."""
        return self.event_ids is not None and self == Narrowed(event_ids=self.event_ids)


def list_rejected(
    connection: Connection, narrowed: Narrowed, *, after: UUID = _NIL, most: int | None = None
) -> list[UUID]:
    """Return the ids of rejected events, oldest first: of those after an id, so many at the most."""
    values = asdict(narrowed) | {"after": after, "most": most}
    return [row["id"] for row in connection.execute(_QUERIES["list_rejected_after"], values, prepare=False)]


def count_rejected(connection: Connection, narrowed: Narrowed) -> int:
    """Count rejected events."""
    (row,) = connection.execute(_QUERIES["count_rejected"], asdict(narrowed), prepare=False).fetchall()
    found: int = row["count"]
    return found


def reprocess_event(
    connection: Connection,
    event_id: UUID,
    parse: Callable[[RejectedEvent], Entry],
    catalogue: Catalogue,
    *,
    dry_run: bool,
) -> Reprocessed:
    """Parse one event again and store what came of it, or in a dry run only say so.

    1. Lock the event; it must be rejected still.
    2. Parse it. Rejected again: keep the new reason.
    3. Insert its receipt. If the identity is another event's, it stays rejected as that one's duplicate.
    4. Accept it and make its deliveries.

    An event that cannot be read or stored for what is in it stays as it is, and keeps none of the others.
    """
    try:
        with connection.transaction(force_rollback=dry_run):
            return _reprocess(connection, event_id, parse, catalogue)
    except (DataError, IntegrityError) as error:
        return Reprocessed(event_id=event_id, outcome="failed", reason=type(error).__name__)
    except Error:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the parser of a team's module raises
        return Reprocessed(event_id=event_id, outcome="failed", reason=type(error).__name__)


def _reprocess(
    connection: Connection, event_id: UUID, parse: Callable[[RejectedEvent], Entry], catalogue: Catalogue
) -> Reprocessed:
    row = connection.execute(_QUERIES["lock_event"], {"id": event_id}).fetchone()
    if row is None:
        return Reprocessed(event_id=event_id, outcome="not_found")
    about: dict[str, Any] = {"event_id": event_id, "tenant": row["tenant"]}
    if row.pop("state") != "rejected":
        return Reprocessed(**about, outcome="not_rejected")
    entry = parse(RejectedEvent(**row))
    if entry.reject_reason is not None:
        _reject(connection, event_id, entry.reject_reason, entry.notes)
        return Reprocessed(**about, outcome="rejected", reason=entry.reject_reason)
    cursor = connection.cursor(binary=True, row_factory=rows.tuple_row)
    insert_receipts(cursor, [entry])
    key = {"tenant": entry.tenant, "provider": entry.provider, "fingerprint": entry.fingerprint}
    receipt = connection.execute(_QUERIES["read_receipt"], key).fetchone()
    if receipt and receipt["event_id"] != event_id:
        _reject(connection, event_id, DUPLICATE, notes_array([f"the same event as {receipt['event_id']}"]))
        return Reprocessed(**about, outcome=DUPLICATE, reason=DUPLICATE, same_as=receipt["event_id"])
    connection.execute(_QUERIES["accept_event"], entry._asdict())
    catalogue.follow(cursor, read_version(cursor), [event_id])
    insert_deliveries(cursor, [entry], catalogue)
    handlers = catalogue.wanting(entry.provider, entry.type, entry.tenant)
    return Reprocessed(**about, outcome="accepted", handlers=tuple(handlers))


def _reject(connection: Connection, event_id: UUID, reason: str, notes: str) -> None:
    values: dict[str, Any] = {"id": event_id, "reject_reason": reason, "notes": notes}
    connection.execute(_QUERIES["reject_again"], values)
