"""Incidents in Postgres: failures of one cause as one row, open until it was quiet and something succeeded.

        ┌─────────── seen again ◀───────────┐
    open ── quiet, or by a person ──▶ resolved

Each dead delivery is grouped once: its mark and the count of its incident commit together. Whoever writes holds one
lock, so that notices (`workers.store.alerts`) have ids in the order of their commits. Queries are in `incidents.sql`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from workers.store.connect import Connection

_SQL: Final = Queries("incidents.sql")
Kind = Literal["failure", "rejected", "refused"]
Key = tuple[Kind, str, str]
"""Kind, subject and cause."""
SAMPLES: Final = 5
MOST_CAUSES: Final = 50
"""Causes of a subject within a day; what comes beyond is one incident of the cause `OTHERS`."""
OTHERS: Final = "(other causes)"
DEAD_BOUND: Final = 100_000
_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Something that failed: a dead or waiting delivery, a rejected event, refusals of an endpoint.

    Attributes:
        error: as it was recorded.
        at: when, aware.
        count: how many it stands for.
        event_id: None if it was not stored.
    """

    kind: Kind
    subject: str
    cause: str
    error: str
    tenant: str
    at: datetime
    count: int = 1
    event_id: UUID | None = None


@dataclass(slots=True, kw_only=True)
class Group:
    """Failures of one cause that are recorded together."""

    example: str
    first_seen: datetime
    last_seen: datetime
    count: int = 0
    waiting: int = 0
    samples: list[UUID] = field(default_factory=list)
    tenants: Counter[str] = field(default_factory=Counter)
    tenants_last: dict[str, datetime] = field(default_factory=dict)

    def add(self, failure: Failure, *, is_waiting: bool) -> None:
        """Add one failure; one that waits is no loss."""
        self.first_seen = min(self.first_seen, failure.at)
        self.last_seen = max(self.last_seen, failure.at)
        self.tenants[failure.tenant] += 0 if is_waiting else failure.count
        self.tenants_last[failure.tenant] = max(self.tenants_last.get(failure.tenant, failure.at), failure.at)
        if is_waiting:
            self.waiting += failure.count
        else:
            self.count += failure.count
        if failure.event_id is not None and len(self.samples) < SAMPLES:
            self.samples.append(failure.event_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ungrouped:
    """A delivery that failed, dead or waiting."""

    event_id: UUID
    handler: str
    tenant: str
    error: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An event that was rejected."""

    event_id: UUID
    provider: str
    tenant: str
    reason: str
    at: datetime


def lock(connection: Connection) -> None:
    """Let nobody else write incidents until the transaction ends."""
    connection.execute(_SQL["lock"])


def lock_if_free(connection: Connection) -> bool:
    """Do the same unless somebody else writes; return whether it was done."""
    (row,) = connection.execute(_SQL["lock_if_free"]).fetchall()
    return bool(row["locked"])


def list_ungrouped(connection: Connection, *, most: int) -> list[Ungrouped]:
    """Return dead deliveries that belong to no incident yet, locked until the transaction ends."""
    return [Ungrouped(**row) for row in connection.execute(_SQL["list_ungrouped"], {"most": most})]


def list_waiting(connection: Connection, *, attempts: int) -> list[Ungrouped]:
    """Return deliveries that have failed `attempts` times or more, of the 2,000 that are tried again first."""
    return [Ungrouped(**row) for row in connection.execute(_SQL["list_waiting"], {"attempts": attempts})]


def take_rejected(connection: Connection) -> list[Rejected]:
    """Return the events that were rejected since the last call, of the latest 10,000 of each reason and the last hour.

    Args:
        connection: in a transaction, which also moves on what "the last call" means.
    """
    (progress,) = connection.execute(_SQL["read_progress"]).fetchall()
    rows = connection.execute(_SQL["list_rejected"], progress).fetchall()
    connection.execute(_SQL["move_progress"], {"until": progress["until"]})
    return [Rejected(**row) for row in rows]


def list_active(connection: Connection, endpoints: Sequence[tuple[str, str, datetime]]) -> set[tuple[str, str]]:
    """Return which (tenant, provider) have got a valid event at the given time or later."""
    parameters = dict(zip(("tenants", "providers", "since"), map(list, zip(*endpoints, strict=True)), strict=True))
    return {(row["tenant"], row["provider"]) for row in connection.execute(_SQL["list_active"], parameters)}


def mark_grouped(connection: Connection, grouped: Mapping[int, Collection[Ungrouped]]) -> None:
    """Note the incident of dead deliveries that are locked."""
    marks = [(it.event_id, it.handler, incident) for incident, members in grouped.items() for it in members]
    if marks:
        event_ids, handlers, incidents = (list(column) for column in zip(*marks, strict=True))
        parameters = {"event_ids": event_ids, "handlers": handlers, "incidents": incidents}
        connection.execute(_SQL["mark_grouped"], {**parameters, "first": min(event_ids), "last": max(event_ids)})


def record(
    connection: Connection,
    failures: Iterable[Failure],
    *,
    is_waiting: bool = False,
    sets_count: bool = False,
) -> dict[Key, int]:
    """Add failures to their incidents, open or open again where that is so, and note whom to tell.

    A cause that was last seen more than a day ago is nobody's news: nobody is told.

    Args:
        connection: in a transaction that holds the lock.
        failures: of one kind.
        is_waiting: they are no losses yet, and all that there are: no count rises.
        sets_count: the counts are of all failures, not of new ones.

    Returns:
        The incident of each failure's kind, subject and cause.
    """
    groups: dict[Key, Group] = {}
    keys: dict[Key, Key] = {}
    found = list(failures)
    for failure, key in zip(found, _bounded(connection, found), strict=True):
        keys[failure.kind, failure.subject, failure.cause] = key
        group = groups.get(key)
        if group is None:
            groups[key] = group = Group(example=failure.error, first_seen=failure.at, last_seen=failure.at)
        group.add(failure, is_waiting=is_waiting)
    ids = {
        key: _record(connection, key, groups[key], sets_waiting=is_waiting, sets_count=sets_count)
        for key in sorted(groups)
    }
    if is_waiting:
        connection.execute(_SQL["clear_waiting"], {"ids": list(ids.values())})
    return {key: ids[bounded] for key, bounded in keys.items()}


def _bounded(connection: Connection, failures: Sequence[Failure]) -> list[Key]:
    """Return the key of each failure; those of new causes beyond `MOST_CAUSES` of a subject share one."""
    asked = {(it.kind, it.subject, it.cause) for it in failures}
    if not asked:
        return []
    ordered = sorted(asked)
    parameters = {
        "kinds": [it[0] for it in ordered],
        "subjects": [it[1] for it in ordered],
        "causes": [it[2] for it in ordered],
    }
    known = {(row["kind"], row["subject"], row["cause"]) for row in connection.execute(_SQL["find"], parameters)}
    rows = connection.execute(_SQL["count_causes"], parameters)
    counts = Counter({(row["kind"], row["subject"]): row["count"] for row in rows})
    keys: dict[Key, Key] = {}
    for key in ordered:
        kind, subject, _ = key
        if key in known:
            keys[key] = key
        elif counts[kind, subject] < MOST_CAUSES:
            counts[kind, subject] += 1
            keys[key] = key
        else:
            keys[key] = (kind, subject, OTHERS)
    return [keys[it.kind, it.subject, it.cause] for it in failures]


def _record(connection: Connection, key: Key, group: Group, *, sets_waiting: bool, sets_count: bool) -> int:
    kind, subject, cause = key
    sets = {"sets_waiting": sets_waiting, "sets_count": sets_count}
    values = {
        "kind": kind,
        "subject": subject,
        "cause": cause,
        "example": group.example,
        "first_seen": group.first_seen,
        "last_seen": group.last_seen,
        "count": group.count,
        "waiting": group.waiting,
        "samples": group.samples,
    }
    (row,) = connection.execute(_SQL["record"], values | sets).fetchall()
    incident: int = row["id"]
    tenants = [*group.tenants]
    about = {
        "incident": incident,
        "tenants": tenants,
        "counts": [group.tenants[it] for it in tenants],
        "last": [group.tenants_last[it] for it in tenants],
        "since": row["opened_at"],
        "sets_count": sets_count,
    }
    joined = [it["tenant"] for it in connection.execute(_SQL["record_tenants"], about)]
    if row["is_open"] and not row["muted"]:
        if (row["opened"] or not row["told"]) and not row["is_old"]:
            notify(connection, incident, "opened", tenants)
        elif row["told"] and joined:
            notify(connection, incident, "joined", joined)
    return incident


def notify(connection: Connection, incident: int, kind: str, tenants: Sequence[str]) -> None:
    """Note in the same transaction that this is to be told."""
    connection.execute(_SQL["notify"], {"incident": incident, "kind": kind, "tenants": list(tenants)})
    if kind != "joined":
        connection.execute(_SQL["mark_told"], {"incident": incident})


def resolve_quiet(connection: Connection, *, quiet: timedelta) -> int:
    """Resolve what has been quiet for so long, a handler's when it has succeeded since or after a week.

    Args:
        connection: in a transaction that holds the lock.
        quiet: for how long; twice as long after each time that it came back, 32 times at the most.

    Returns:
        How many.
    """
    rows = connection.execute(_SQL["list_quiet"], {"quiet": quiet, "most": _AT_ONCE}).fetchall()
    return sum(resolve(connection, row["id"], who=None) for row in rows)


def resolve(connection: Connection, incident: int, *, who: str | None) -> bool:
    """Resolve an incident; return whether it was open. The lock is held."""
    for row in connection.execute(_SQL["resolve"], {"incident": incident, "who": who}).fetchall():
        if row["told"]:
            notify(connection, incident, "resolved", row["tenants"])
        return True
    return False


def remind(connection: Connection) -> None:
    """Note a reminder of each incident that nothing was told about for a day. The lock is held."""
    for row in connection.execute(_SQL["list_to_remind"], {"most": _AT_ONCE}).fetchall():
        notify(connection, row["id"], "reminder", row["tenants"])


def mute(connection: Connection, incident: int, *, until: datetime | None) -> bool:
    """Tell nobody of an incident until then, or tell again; return whether there is one."""
    return bool(connection.execute(_SQL["mute"], {"incident": incident, "until": until}).fetchall())


def list_incidents(
    connection: Connection, *, state: str | None, subject: str | None, tenant: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return incidents, open ones and the latest first."""
    values = {"state": state, "subject": subject, "tenant": tenant, "limit": limit}
    return connection.execute(_SQL["list_incidents"], values, prepare=False).fetchall()


def read_incident(connection: Connection, incident: int) -> dict[str, Any] | None:
    """Return an incident with the names of its tenants, those with most failures first; None if there is none."""
    return connection.execute(_SQL["read_incident"], {"incident": incident}).fetchone()


def list_tenants(connection: Connection, incident: int, *, limit: int) -> list[dict[str, Any]]:
    """Return the tenants of an incident with their counts."""
    return connection.execute(_SQL["list_tenants"], {"incident": incident, "limit": limit}).fetchall()


def list_samples(connection: Connection, samples: Sequence[UUID], *, handler: str) -> list[dict[str, Any]]:
    """Return sample events with the latest failure of a handler, traceback included."""
    return connection.execute(_SQL["list_samples"], {"samples": list(samples), "handler": handler}).fetchall()


def count_dead(connection: Connection, incident: int) -> int:
    """Count the dead deliveries of an incident, up to `DEAD_BOUND`."""
    values = {"incident": incident, "bound": DEAD_BOUND}
    (row,) = connection.execute(_SQL["count_dead"], values, prepare=False).fetchall()
    return int(row["count"])


def count_open(connection: Connection) -> int:
    """Count the incidents that are open and not muted."""
    (row,) = connection.execute(_SQL["count_open"]).fetchall()
    return int(row["count"])


def drop_old(connection: Connection, *, retention_days: int) -> None:
    """Delete incidents that are resolved and were last seen so long ago, and notices that all have been told of."""
    values = {"keep": timedelta(days=retention_days), "most": 1000}
    connection.execute(_SQL["drop_old"], values)
    connection.execute(_SQL["drop_old_notices"])
