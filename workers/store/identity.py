"""Which database this is, so that a Redis can remember whose events it holds; see `shared.identity`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg

from workers.store.sql import Queries

if TYPE_CHECKING:
    from workers.store.connect import Connection

_SQL: Final = Queries("identity.sql")
UNTOLD: Final = "untold"
"""Stands for the system identifier where the role may not read it."""
_UNTOLD_ERRORS: Final = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.FeatureNotSupported,
)


def read_identity(connection: Connection, environment: str) -> str:
    """Return the identity of this database in an environment, such as "production 7412345678901234567/16384/2200".

    It is made of PIPELINE_ENVIRONMENT, Postgres' system identifier, and the oids of the database and of the schema of
    the pipeline's tables. A replica that is promoted keeps it; a dump that is restored has another one.

    Raises:
        psycopg.errors.UndefinedTable: the database was not migrated.
    """
    (row,) = connection.execute(_SQL["read_schema"]).fetchall()
    return f"{environment or '-'} {read_database(connection)}/{row['schema']}"


def read_database(connection: Connection) -> str:
    """Return Postgres' system identifier and the oid of the database, which any role may read, with a slash."""
    (row,) = connection.execute(_SQL["read_database"]).fetchall()
    try:
        (told,) = connection.execute(_SQL["read_system_identifier"]).fetchall()
        system = told["system_identifier"]
    except _UNTOLD_ERRORS:
        system = UNTOLD
    return f"{system}/{row['database']}"
