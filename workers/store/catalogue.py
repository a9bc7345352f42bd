"""The catalogue: what handler workers have announced, and which handlers an event is delivered to.

Guarantees: a handler stays in it until it is removed or renamed, whether or not a worker runs it. Every batch of events
gets its deliveries by the catalogue as it is in the batch's own transaction. Events that were stored before anything
had been announced get theirs after the first announcement, in steps of `backfill_next`. Workers with different
registrations of one handler do not take turns: see `announce`.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from uuid import UUID

from workers.store import audit, manual
from workers.store.limits import ANY
from workers.store.serial import declare_serial
from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime

    import psycopg

    from workers.store.connect import Connection

_QUERIES: Final = Queries("catalogue.sql")
BACKFILL_SECONDS: Final = 0.5
"""Of each sweep; the rest waits for the next one."""
_BATCH: Final = 2000
_MOST_REPLACED: Final = 20
"""Earlier registrations of a handler that are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a handler asks for, and its limits.

    Attributes:
        name: unique; also the name of its Celery task.
        event: the event type it asks for, or "*".
        tenant: the tenant it belongs to, or "*".
        provider: the provider it listens to, or "*".
        max_attempts: failed attempts after which a delivery is dead.
        timeout: seconds that one attempt may take.
        schedule: seconds, the upper bound of the wait after each failure.
        serial_by: "subject" if deliveries of one subject run one at a time, in the order of arrival.
    """

    name: str
    event: str
    tenant: str
    provider: str
    max_attempts: int
    timeout: float
    schedule: tuple[float, ...]
    serial_by: Literal["subject"] | None

    @property
    def digest(self) -> str:
        """Return a short text that differs from that of any other registration of this handler."""
        parts = (self.event, self.tenant, self.provider, self.max_attempts, self.timeout, self.schedule, self.serial_by)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

    def wants(self, provider: str, event: str | None, tenant: str) -> bool:
        """Say whether it asks for such an event; `manual.sql` says the same for backfills."""
        return (
            self.provider in {ANY, provider}
            and self.tenant in {ANY, tenant}
            and (
                self.event in {ANY, event}
                or (self.event.endswith(ANY) and event is not None and event.startswith(self.event[:-1]))
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A handler in the catalogue.

    Attributes:
        registration: what deliveries are made by.
        code_version: of the worker that ran it last.
        replaced: digests of earlier registrations.
        renamed_to: the name that it has now; nothing is delivered to this one.
        announced_at: since when the registration holds.
        last_seen_at: when a worker last said that it runs it, to a minute.
        backfills: whether events that were stored before the first announcement still get their deliveries.
    """

    registration: Registration
    code_version: str
    replaced: tuple[str, ...]
    renamed_to: str | None
    announced_at: datetime
    last_seen_at: datetime
    backfills: bool


class Announced(NamedTuple):
    """What came of an announcement: names of handlers whose registration changed, or was not taken."""

    changed: list[str]
    added: list[str]
    """Of `changed`, those that were announced for the first time, but not with the first handlers of all: nobody makes
    deliveries of them for events that are stored already."""
    outdated: list[str]
    """Workers that run a newer registration live; these are taken when none does any more."""
    renamed: list[str]


class Catalogue:
    """What this process knows of the catalogue; it is read again when its version has changed."""

    def __init__(self) -> None:
        self._version = -1
        self._registrations: list[Registration] = []
        self._wanting: dict[tuple[str, str | None, str], tuple[str, ...]] = {}

    def follow(self, cursor: psycopg.Cursor[Any], version: int, accepted: Sequence[UUID]) -> None:
        """See that this is the catalogue as it is in a transaction that stores events.

        1. Read it if its version has changed.
        2. If nothing was ever announced, wait for an announcement that is under way, and look again. Otherwise keep the
           first one out until these events are committed, and note them: it makes their deliveries.

        Args:
            cursor: inside the transaction.
            version: of the catalogue, read in the transaction.
            accepted: ids of the events.
        """
        if version == 0:
            cursor.execute(_QUERIES["share_lock"])
            self._read(cursor)
            if self._version == 0 and accepted:
                cursor.execute(_QUERIES["note_unheard"], {"id": UUID(int=min(accepted).int - 1)})
        elif version != self._version:
            self._read(cursor)

    def wanting(self, provider: str, event: str | None, tenant: str) -> tuple[str, ...]:
        """Return the names of the handlers that ask for such an event, sorted."""
        key = (provider, event, tenant)
        if key not in self._wanting:
            if len(self._wanting) > 100_000:  # noqa: PLR2004 - event types come from outside: bound what they fill
                self._wanting.clear()
            self._wanting[key] = tuple(it.name for it in self._registrations if it.wants(provider, event, tenant))
        return self._wanting[key]

    def _read(self, cursor: psycopg.Cursor[Any]) -> None:
        rows = cursor.execute(_QUERIES["read"]).fetchall()
        self._version = rows[0][0]
        self._registrations = [
            Registration(
                name=name,
                event=event,
                tenant=tenant,
                provider=provider,
                max_attempts=max_attempts,
                timeout=timeout,
                schedule=tuple(schedule),
                serial_by=serial_by,
            )
            for _, name, event, tenant, provider, max_attempts, timeout, schedule, serial_by in rows
            if name is not None
        ]
        self._wanting.clear()


def read_version(cursor: psycopg.Cursor[Any]) -> int:
    """Return the version of the catalogue; the cursor returns tuples."""
    (row,) = cursor.execute(_QUERIES["version"]).fetchall()
    return int(row[0])


def list_registered(connection: Connection) -> list[Registered]:
    """Return all handlers by name, renamed ones included."""
    return [_registered(row) for row in connection.execute(_QUERIES["list_registered"])]


def read_registrations(connection: Connection) -> dict[str, Registration]:
    """Return what deliveries are made by, by name."""
    return {it.registration.name: it.registration for it in list_registered(connection) if it.renamed_to is None}


def announce(
    connection: Connection,
    registrations: Sequence[Registration],
    *,
    code_version: str,
    live: Collection[tuple[str, str]] = (),
) -> Announced:
    """Take in what a worker registers; workers repeat it while they live.

    Of two registrations of one handler, the one that was never seen before is taken at once. One that was replaced by
    another is taken again when no live worker has that other one: old and new workers side by side do not take turns,
    and a deployment that is rolled back gets its registrations back.

    Args:
        connection: outside a transaction.
        registrations: all of a worker.
        code_version: of the worker.
        live: name and digest of the registrations of live workers.
    """
    result = Announced([], [], [], [])
    seen = []
    with connection.transaction():
        connection.execute(_QUERIES["lock"])
        is_first = connection.execute(_QUERIES["version"]).fetchone() == {"version": 0}
        held_ones = {it.registration.name: it for it in list_registered(connection)}
        for registration in registrations:
            name, held = registration.name, held_ones.get(registration.name)
            replaced: tuple[str, ...] = ()
            if held is not None:
                if held.renamed_to is not None:
                    result.renamed.append(name)
                    continue
                if held.registration.digest == registration.digest:
                    seen.append(name)
                    continue
                if registration.digest in held.replaced and (name, held.registration.digest) in live:
                    result.outdated.append(name)
                    continue
                replaced = (*(it for it in held.replaced if it != registration.digest), held.registration.digest)
            _register(connection, registration, code_version, replaced)
            result.changed.append(name)
            if held is None and not is_first:
                result.added.append(name)
        if result.changed:
            declare_serial(
                connection,
                serial=[it.name for it in registrations if it.serial_by and it.name in result.changed],
                others=[it.name for it in registrations if not it.serial_by and it.name in result.changed],
            )
            connection.execute(_QUERIES["raise_version"])
        if seen:
            connection.execute(_QUERIES["see"], {"names": seen, "code_version": code_version})
    return result


def backfill(connection: Connection) -> None:
    """Do `BACKFILL_SECONDS` of what is left to do for events from before the first announcement."""
    ends = time.monotonic() + BACKFILL_SECONDS
    while backfill_next(connection) and time.monotonic() < ends:
        pass


def backfill_next(connection: Connection) -> bool:
    """Make a page of the deliveries that events lack which were stored before the first announcement.

    Returns:
        Whether there may be more.
    """
    with connection.transaction():
        row = connection.execute(_QUERIES["next_backfill"]).fetchone()
        if row is None:
            return False
        page = manual.backfill_page(
            connection,
            handler=row["name"],
            provider=None if row["provider"] == ANY else row["provider"],
            event=None if row["event"] == ANY else row["event"],
            tenant=None if row["tenant"] == ANY else row["tenant"],
            from_id=row["backfill_after"],
            until=row["until"],
            stored_since=row["unheard_since"],
        )
        after = None if page is None else page.last_id
        connection.execute(_QUERIES["move_backfill"], {"name": row["name"], "after": after})
    return True


def remove(connection: Connection, name: str) -> bool:
    """Take a handler, and names that it had before, out of the catalogue; return whether it was in it.

    Its open deliveries stay: the caller decides what becomes of them.
    """
    with connection.transaction():
        connection.execute(_QUERIES["lock"])
        is_known = connection.execute(_QUERIES["remove"], {"name": name}).rowcount > 0
        if is_known:
            connection.execute(_QUERIES["raise_version"])
            audit.record(connection, what="handlers removed", target=name)
    return is_known


def rename(connection: Connection, old: str, new: str) -> None:
    """Give a handler another name, from the next batch of events on.

    Raises:
        KeyError: the catalogue has no handler `old`, or that is another one's former name, or `new` is one.
    """
    names = {"old": old, "new": new}
    with connection.transaction():
        connection.execute(_QUERIES["lock"])
        held = {it.registration.name: it.renamed_to for it in list_registered(connection)}
        if old not in held or held[old] not in {None, new} or held.get(new) is not None:
            raise KeyError(old)
        if held[old] is None:
            connection.execute(_QUERIES["rename"], names)
            connection.execute(_QUERIES["raise_version"])
            audit.record(connection, what="handlers renamed", target=old, after={"name": new})


def rename_open(connection: Connection, old: str, new: str) -> Iterator[tuple[int, int]]:
    """Move the open deliveries of a renamed handler, but for those that run at this moment.

    Yields:
        Of each batch how many were moved, and how many were cancelled because their event has one of the new name.
    """
    after = UUID(int=0)
    while True:
        values = {"old": old, "new": new, "after": after, "most": _BATCH}
        rows = connection.execute(_QUERIES["rename_open"], values, prepare=False).fetchall()
        if not rows:
            return
        after = rows[-1]["event_id"]
        moved = sum(row["moved"] for row in rows)
        yield moved, len(rows) - moved


def count_open(connection: Connection, name: str) -> int:
    """Count the open deliveries of a handler, in whatever state."""
    (row,) = connection.execute(_QUERIES["count_open"], {"name": name}, prepare=False).fetchall()
    return int(row["count"])


def _register(connection: Connection, registration: Registration, code_version: str, replaced: Sequence[str]) -> None:
    values = {
        "name": registration.name,
        "event": registration.event,
        "tenant": registration.tenant,
        "provider": registration.provider,
        "max_attempts": registration.max_attempts,
        "timeout": registration.timeout,
        "schedule": list(registration.schedule),
        "serial_by": registration.serial_by,
        "code_version": code_version,
        "replaced": list(replaced)[-_MOST_REPLACED:],
    }
    connection.execute(_QUERIES["register"], values)


def _registered(row: dict[str, Any]) -> Registered:
    names = ("name", "event", "tenant", "provider", "max_attempts", "serial_by")
    registration = Registration(
        timeout=row["timeout_seconds"], schedule=tuple(row["schedule"]), **{name: row[name] for name in names}
    )
    kept = ("code_version", "renamed_to", "announced_at", "last_seen_at", "backfills")
    return Registered(registration=registration, replaced=tuple(row["replaced"]), **{name: row[name] for name in kept})
