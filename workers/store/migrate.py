"""Migrations: forward-only SQL files, `NNNN_pre_*` before a deployment of services and `NNNN_post_*` after it.

Guarantees: each file is applied once, in order, in a transaction, however many migrate at the same time (an advisory
lock). Refuses: a database whose history this version does not know (`MigrationError`).
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from workers.store.connect import Connection

_LOCK: Final = 0x70697065  # "pipe"
Phase = Literal["pre", "post"]


class MigrationError(Exception):
    """The database cannot be migrated by this version; the text says why and what to do."""


def migrations(phase: Phase | None = None) -> list[str]:
    """Return the names of the migration files in order, of one phase or of both."""
    folder = resources.files("workers.store.migrations")
    names = sorted(entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [name for name in names if phase is None or name.split("_")[1] == phase]


def applied(connection: Connection) -> list[str]:
    """Return the names of what has been applied, in order."""
    if connection.execute("SELECT to_regclass('migrations') AS name").fetchall() == [{"name": None}]:
        return []
    return [row["name"] for row in connection.execute("SELECT name FROM migrations ORDER BY name")]


def migrate(connection: Connection, phase: Phase | None = None) -> list[str]:
    """Apply what is missing and return the names of what was applied.

    Raises:
        MigrationError: the database was migrated by a newer version.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        done = applied(connection)
        if unknown := sorted(set(done) - set(migrations())):
            raise MigrationError(f"the database was migrated by a newer version ({unknown[-1]}): deploy that version")
        missing = [name for name in migrations(phase) if name not in done]
        if missing:  # not before: where nothing is missing, a role that may not make tables needs none
            connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())"
            )
        for name in missing:
            text = resources.files("workers.store.migrations").joinpath(f"{name}.sql").read_text("utf-8")
            connection.execute(text)
            connection.execute("INSERT INTO migrations (name) VALUES (%s)", [name])
        return missing
