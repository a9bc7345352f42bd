"""Groups what has failed into incidents: dead and waiting deliveries, rejected events, refused endpoints.

It reads what is recorded anyway. A call takes about `CALL_SECONDS` at the most; what is left is done by the next.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from workers.housekeeping.causes import cause_of
from workers.store import incidents
from workers.store.incidents import Failure
from workers.store.jobs import Filter
from workers.store.tallies import roll_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shared.refusals import Refused
    from workers.store.connect import Connection
    from workers.store.jobs import Kind

CALL_SECONDS: Final = 1.0
"""Time in which dead deliveries are grouped in one call."""
AT_ONCE: Final = 2000
"""Deliveries grouped in one transaction."""
WAITING_ATTEMPTS: Final = 3
"""Failures after which a delivery that waits for another attempt is an incident: what mends itself before is none."""
REFUSED_COUNT: Final = 3
REFUSED_SECONDS: Final = 60.0
"""Refusals are an incident from that many on, that long after the first one, if nothing valid has come since."""


def group(connection: Connection, *, read_refused: Callable[[], Sequence[Refused]], quiet_seconds: float) -> None:
    """Group what has failed since the last call, resolve what is over, and note reminders.

    1. Roll tallies up: what succeeded before is not what ends an incident.
    2. Dead deliveries, in transactions of `AT_ONCE`, until none are left or the time is over.
    3. All the rest in one transaction.

    Args:
        connection: outside a transaction.
        read_refused: returns the refusals of the last hour.
        quiet_seconds: INCIDENT_QUIET_SECONDS.
    """
    roll_up(connection)
    group_dead(connection)
    refused = read_refused()
    with connection.transaction():
        if not incidents.lock_if_free(connection):
            return
        _group_waiting(connection)
        _group_rejected(connection)
        _group_refused(connection, refused)
        incidents.resolve_quiet(connection, quiet=timedelta(seconds=quiet_seconds))
        incidents.remind(connection)


def replayed(incident: Mapping[str, Any]) -> tuple[Kind, Filter]:
    """Return the job that puts an incident's failures back: what it does, with which deliveries or events.

    Args:
        incident: as `store.incidents.read_incident` returns it, of dead deliveries or rejected events. Where it is one
            tenant's, nothing of others is taken, whatever is found to have the same cause meanwhile.
    """
    tenant = incident["tenants"][0] if incident["tenant_count"] == 1 else None
    if incident["kind"] == "failure":
        return "retry", Filter(incident=incident["id"], state="dead", tenant=tenant)
    return "reprocess", Filter(reason=incident["cause"], provider=incident["subject"], tenant=tenant)


def group_dead(connection: Connection, *, seconds: float = CALL_SECONDS) -> int:
    """Group dead deliveries for so long, or until none are left; return how many."""
    ends, done = time.monotonic() + seconds, 0
    while True:
        with connection.transaction():
            incidents.lock(connection)
            found = incidents.list_ungrouped(connection, most=AT_ONCE)
            failures = [_of_delivery(it) for it in found]
            ids = incidents.record(connection, failures)
            grouped: dict[int, list[incidents.Ungrouped]] = {}
            for it, failure in zip(found, failures, strict=True):
                grouped.setdefault(ids[failure.kind, failure.subject, failure.cause], []).append(it)
            incidents.mark_grouped(connection, grouped)
        done += len(found)
        if len(found) < AT_ONCE or time.monotonic() >= ends:
            return done


def _of_delivery(it: incidents.Ungrouped) -> Failure:
    return Failure(
        kind="failure",
        subject=it.handler,
        cause=cause_of(it.error),
        error=it.error,
        tenant=it.tenant,
        at=it.at,
        event_id=it.event_id,
    )


def _group_waiting(connection: Connection) -> None:
    waiting = incidents.list_waiting(connection, attempts=WAITING_ATTEMPTS)
    incidents.record(connection, [_of_delivery(it) for it in waiting], is_waiting=True)


def _group_rejected(connection: Connection) -> None:
    found = incidents.take_rejected(connection)
    failures = [
        Failure(
            kind="rejected",
            subject=it.provider,
            cause=it.reason,
            error=it.reason,
            tenant=it.tenant,
            at=it.at,
            event_id=it.event_id,
        )
        for it in found
    ]
    incidents.record(connection, failures)


def _group_refused(connection: Connection, refused: Sequence[Refused]) -> None:
    """Record endpoints whose requests are all refused for a while; refusals beside valid requests are a stranger's."""
    lasting = [it for it in refused if it.count >= REFUSED_COUNT and it.last_at - it.first_at >= REFUSED_SECONDS]
    if not lasting:
        return
    since = [(it.tenant, it.provider, datetime.fromtimestamp(it.first_at, UTC)) for it in lasting]
    active = incidents.list_active(connection, since)
    failures = [
        Failure(
            kind="refused",
            subject=f"{it.tenant}/{it.provider}",
            cause=it.code,
            error=it.code,
            tenant=it.tenant,
            at=datetime.fromtimestamp(it.last_at, UTC),
            count=it.count,
        )
        for it in lasting
        if (it.tenant, it.provider) not in active
    ]
    incidents.record(connection, failures, sets_count=True)
