"""The sweeper: finds deliveries whose worker died or whose message was lost, and makes them due again.

Any number of sweepers may run at the same time. A step that fails leaves its work for the next sweep.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from workers.dispatch.failure_log import log_failure, log_uncounted
from workers.dispatch.retry import DEFAULT_SCHEDULE, delay
from workers.store import deliveries, recovery
from workers.store.catalogue import Registration, read_registrations
from workers.store.deliveries import Claimed, Outcome
from workers.store.limits import ANY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from uuid import UUID

    from workers.store.connect import Connection

LOST: Final = "WorkerLost: the process that ran it ended or did not answer before its lease was over"
UNKNOWN_SECONDS: Final = 2.0
"""About which a delivery waits that came to a worker which does not know its handler."""
LOST_IN_COMPANY: Final = (
    "WorkerLost: its process was lost while it held several deliveries; not counted, runs alone next"
)


def expire_leases(connection: Connection) -> int:
    """Settle running deliveries past their lease; return how many.

    1. Lock them; what another sweeper holds is its own.
    2. Lost alone: a counted attempt, tried again by the schedule or dead.
    3. Lost together with others: not counted, and each runs alone from now on.
    """
    lost = []
    with connection.transaction():
        expired = recovery.list_expired(connection)
        if expired:
            recovery.count_lost(connection, expired)
        alone = [row for row in expired if row["alone"]]
        policies = read_registrations(connection) if alone else {}
        for name in {row["handler"] for row in alone}:
            policy = policies.get(name) or _default_policy(name)
            outcomes = [_lost(row, policy) for row in alone if row["handler"] == name]
            deliveries.record(connection, name, outcomes)
            recovery.keep_alone(connection, name, [outcome.claimed.event_id for outcome in outcomes])
            lost += [(outcome, policy) for outcome in outcomes]
        company = [row for row in expired if not row["alone"]]
        if company:
            recovery.return_uncharged(connection, company, error=LOST_IN_COMPANY)
    for outcome, policy in lost:
        log_failure(outcome, policy)
    log_uncounted(company)
    return len(expired)


def return_queued(connection: Connection, *, list_named: Callable[[], Collection[tuple[UUID, str]]]) -> int:
    """Return queued deliveries that no message will bring; return how many.

    Args:
        connection: outside a transaction.
        list_named: returns the (event, handler) pairs of the messages that are left; asked only if one seems late.
    """
    if not recovery.have_queued_late(connection):
        return 0
    return recovery.return_queued(connection, list_named())


def is_express_late(connection: Connection, *, list_express: Callable[[], Collection[tuple[UUID, str]]]) -> bool:
    """Say whether a delivery waits in the express queue that should have been taken long ago."""
    named = list_express()
    return bool(named) and recovery.are_queued_late(connection, named)


def disown(connection: Connection, handler: str, event_ids: Sequence[UUID], *, worker: str) -> int:
    """Return deliveries that were sent to a worker which does not know their handler; return how many.

    Another worker may know it, such as one of the next version during a deployment. While none does, none is admitted.
    """
    error = f"not counted: the worker {worker} knows no handler {handler!r}; its HANDLERS differ, or its version does"
    wait = random.uniform(0.5, 1.5) * UNKNOWN_SECONDS  # noqa: S311 - nothing to guess
    return recovery.return_unknown(connection, handler, event_ids, error=error, wait=wait)


def _lost(row: dict[str, Any], policy: Registration) -> Outcome:
    claimed = Claimed(event_id=row["event_id"], tenant=row["tenant"], attempt=row["attempt"], fence=row["fence"])
    failures, error = claimed.attempt + 1, f"{LOST} ({row['worker']})"
    if failures >= policy.max_attempts:
        return Outcome(claimed=claimed, state="dead", error=error)
    return Outcome(claimed=claimed, state=None, error=error, retry_in=delay(policy.schedule, failures, random.random))


def _default_policy(name: str) -> Registration:
    """Return the attempts and schedule of a handler that is not in the catalogue any more."""
    return Registration(
        name=name,
        event=ANY,
        tenant=ANY,
        provider=ANY,
        max_attempts=len(DEFAULT_SCHEDULE) + 1,
        timeout=0.0,
        schedule=DEFAULT_SCHEDULE,
        serial_by=None,
    )
