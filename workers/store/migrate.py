"""Migrations: forward-only SQL files, `NNNN_pre_*` before a deployment of services and `NNNN_post_*` after it.

Guarantees: each file is applied once, in order, in a transaction, however many migrate at the same time (an advisory
lock), and beside workers under load: files that follow others are transactions of their own, so that locks do not pile
up, and after a deadlock with workers the file is tried again. Roles that have rights (`workers.store.grants`) get those
on what is new. A database whose history this version does not know, and tables of an application where ours would be,
are a `MigrationError`, and nothing is changed.
"""

from __future__ import annotations

import time
from importlib import resources
from typing import TYPE_CHECKING, Final, Literal

import psycopg
from psycopg import sql

from workers.store.grants import renew_grants

if TYPE_CHECKING:
    from workers.store.connect import Connection

_LOCK: Final = 0x70697065  # "pipe"
_FIRST: Final = "0001_pre_tables"
_OCCUPIED: Final = (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject, psycopg.errors.DuplicateFunction)
_CHOOSE: Final = "set DATABASE_SCHEMA to a schema for the pipeline alone, such as pipeline"
_OTHER_INSTALLATION: Final = """
SELECT n.nspname AS schema FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname IN ('receipts', 'deliveries_done', 'registry_version') AND c.relkind IN ('r', 'p')
GROUP BY n.nspname HAVING count(*) = 3 ORDER BY n.nspname LIMIT 1"""
Phase = Literal["pre", "post"]
ATTEMPTS: Final = 30
PAUSE_SECONDS: Final = 0.5
"""After a deadlock with workers, which lock the same tables in another order; mostly the second attempt succeeds."""


class MigrationError(Exception):
    """The database cannot be migrated by this version; the text says why and what to do."""


def migrations(phase: Phase | None = None) -> list[str]:
    """Return the names of the migration files in order, of one phase or of both."""
    folder = resources.files("workers.store.migrations")
    names = sorted(entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [name for name in names if phase is None or name.split("_")[1] == phase]


def applied(connection: Connection) -> list[str]:
    """Return the names of what has been applied, in order.

    Raises:
        MigrationError: the table `migrations` is an application's.
    """
    if connection.execute("SELECT to_regclass('migrations') AS name").fetchall() == [{"name": None}]:
        return []
    columns = "SELECT attname AS name FROM pg_attribute WHERE attrelid = 'migrations'::regclass AND attnum > 0"
    names = []
    if {row["name"] for row in connection.execute(columns)} == {"name", "applied_at"}:
        names = [row["name"] for row in connection.execute("SELECT name FROM migrations ORDER BY name")]
    if names[:1] != [_FIRST]:
        raise MigrationError(f"the table migrations in this database is an application's: {_CHOOSE}")
    return names


def find_misfit(connection: Connection) -> str:
    """Return why this version cannot work with the database as it is migrated, and what to do; empty if it can.

    It is too new without a `pre` of its own, and too old after a `post` that it does not know.
    """
    try:
        done = applied(connection)
    except MigrationError as error:
        return str(error)
    known = migrations()
    if missing := [name for name in migrations("pre") if name not in done]:
        return f"the database is not ready for this version: run pipeline migrate ({missing[0]} is missing)"
    if newer := [name for name in done if name not in known and name.split("_")[1] == "post"]:
        return f"this version is too old for the database ({newer[-1]}): deploy the version that has migrated it"
    return ""


def migrate(connection: Connection, phase: Phase | None = None, *, schema: str = "") -> list[str]:
    """Apply what is missing and return the names of what was applied.

    Args:
        connection: to that schema.
        phase: only what goes before or after a deployment of services.
        schema: to create if it does not exist; empty for none.

    Raises:
        MigrationError: the database was migrated by a newer version, something is there that is not the pipeline's, or
            what goes before a deployment is missing and only what goes after it was asked for.
        psycopg.errors.DeadlockDetected: in each of `ATTEMPTS` for one file.
    """
    made: list[str] = []
    failed = 0
    while True:
        try:
            names = _apply_next(connection, phase, schema=schema)
        except psycopg.errors.DeadlockDetected:
            failed += 1
            if failed == ATTEMPTS:
                raise
            time.sleep(PAUSE_SECONDS)
            continue
        if not names:
            return made
        made += names
        failed = 0


def _apply_next(connection: Connection, phase: Phase | None, *, schema: str) -> list[str]:
    """Apply the next file that is missing, or all to a new database, in one transaction; return their names.

    A new database gets all or nothing: a table of an application may be where a later file makes one.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        if schema:
            _create_schema(connection, schema)
        done = applied(connection)
        if unknown := sorted(set(done) - set(migrations())):
            raise MigrationError(f"the database was migrated by a newer version ({unknown[-1]}): deploy that version")
        missing = [name for name in migrations(phase) if name not in done]
        missing = missing[:1] if done else missing
        if phase == "post" and (before := [name for name in migrations("pre") if name not in done]):
            raise MigrationError(
                f"{before[0]} is missing: run `pipeline migrate --phase pre`, then deploy the services"
            )
        if missing:  # not before: where nothing is missing, a role that may not make tables needs none
            connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())"
            )
        for name in missing:
            text = resources.files("workers.store.migrations").joinpath(f"{name}.sql").read_text("utf-8")
            try:
                connection.execute(text)
            except _OCCUPIED as error:
                if done:
                    raise
                raise MigrationError(f"{error.diag.message_primary}, and is an application's: {_CHOOSE}") from None
            connection.execute("INSERT INTO migrations (name) VALUES (%s)", [name])
        if missing and not set(migrations("pre")) - {*done, *missing}:  # their statements name every table
            renew_grants(connection)
        return missing


def _create_schema(connection: Connection, schema: str) -> None:
    """Create it, unless the pipeline's tables are elsewhere in this database: that would look as if all were lost."""
    if connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).fetchall():
        return
    for row in connection.execute(_OTHER_INSTALLATION):
        raise MigrationError(
            f"DATABASE_SCHEMA is {schema}, which does not exist, and the pipeline's tables are in the schema "
            f"{row['schema']}: unset DATABASE_SCHEMA to go on with them, or, for another installation, run "
            f"CREATE SCHEMA {schema} first"
        )
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
