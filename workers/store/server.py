"""What Postgres tells of itself, for `pipeline doctor`; nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from psycopg.rows import class_row

from workers.store.grants import APPEND_ONLY, TABLES
from workers.store.migrate import applied, migrations
from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from workers.store.connect import Connection

_SQL: Final = Queries("server.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The server and the session's role.

    Attributes:
        durability: settings by name, as sessions of this role and database get them.
        most_connections: that roles without privileges may have, all together.
        now: its clock.
    """

    version: str
    version_number: int
    is_standby: bool
    encoding: str
    role: str
    synchronous_standbys: str
    durability: Mapping[str, str]
    connections: int
    most_connections: int
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One that follows now; `behind_bytes` is None for a role that may not see it."""

    name: str
    sync_state: str | None
    behind_bytes: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleSlot:
    """A replication slot that nobody reads, and for which WAL is kept."""

    name: str
    kept_bytes: float


def read_facts(connection: Connection) -> Facts:
    """Return what the server says."""
    with connection.cursor(row_factory=class_row(Facts)) as cursor:
        (facts,) = cursor.execute(_SQL["read_facts"]).fetchall()
    return facts


def missing_migrations(connection: Connection) -> list[str]:
    """Return the names of what is not applied. Raises MigrationError: a table of that name is an application's."""
    done = set(applied(connection))
    return [name for name in migrations() if name not in done]


def missing_rights(connection: Connection) -> list[str]:
    """Return tables with the rights on them that this role lacks."""
    tables = {"tables": list(TABLES), "append_only": list(APPEND_ONLY)}
    return [row["missing"] for row in connection.execute(_SQL["missing_rights"], tables)]


def list_excess_rights(connection: Connection, role: str) -> list[str]:
    """Return the tables that a role may change."""
    parameters = {"tables": list(TABLES), "role": role}
    return [row["name"] for row in connection.execute(_SQL["excess_rights"], parameters)]


def may_make_days(connection: Connection) -> bool:
    """Say whether this role can make and drop the days' tables, as only their owner can."""
    return all(row["may"] for row in connection.execute(_SQL["may_make_days"]))


def list_replicas(connection: Connection) -> list[Replica]:
    """Return the replicas that follow."""
    with connection.cursor(row_factory=class_row(Replica)) as cursor:
        return cursor.execute(_SQL["replicas"]).fetchall()


def list_idle_slots(connection: Connection) -> list[IdleSlot]:
    """Return the replication slots that nobody reads."""
    with connection.cursor(row_factory=class_row(IdleSlot)) as cursor:
        return cursor.execute(_SQL["idle_slots"]).fetchall()


def list_open_handlers(connection: Connection) -> list[str]:
    """Return the names of handlers with open deliveries."""
    return [row["handler"] for row in connection.execute(_SQL["open_handlers"])]
