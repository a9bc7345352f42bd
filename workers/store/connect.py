"""Connections to Postgres, set up so that a stopped process cannot hold the others' locks.

Guarantees: autocommit until a transaction is asked for; a session idle in a transaction, or cut off from its client,
is ended by the server within `lease_seconds`. Refuses: an unreachable server, with psycopg's `OperationalError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq, rows
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)
"""Postgres is away, cut the connection, has no room for one, or is no longer the primary (25006): the environment, not
the data. Whoever meets one closes the connection: a session stays on a server that was demoted, where `SELECT 1` goes
on to answer."""
SCHEMA_MISSING: Final = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
)
"""Our own statements name what is not there: the database was not migrated for this version."""
SESSION: Final = {
    "client_encoding": "UTF8",
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "default_transaction_isolation": "read committed",  # later statements must see what others committed meanwhile
    "default_transaction_deferrable": "off",
    "row_security": "off",  # a policy that would hide rows is an error instead
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    # Postgres looks every 2 s whether the client of a running statement still exists. Without it, the session of a
    # killed process that waits for a lock keeps its own locks until it has got that one, and holds its successor up.
    "client_connection_check_interval": "2000",
}
"""What every session relies on, whatever a database or a role sets. Not `default_transaction_read_only`: a server that
was made read-only must stay so."""
HANDLERS_OWN: Final = ("row_security", "lock_timeout", "default_transaction_isolation")
"""What is left to a role or a database in the sessions of handlers: it is about the team's own tables."""


class UnfitDatabaseError(psycopg.OperationalError):
    """The database is not one that the pipeline can use; the text says why and what to do."""


Connection = psycopg.Connection[dict[str, Any]]
"""Rows come as dictionaries."""


def connect(database_url: str, *, name: str, lease_seconds: float = 30.0, keep_plans: bool = False) -> Connection:
    """Open one connection.

    Args:
        database_url: a postgresql:// URL.
        name: what pg_stat_activity shows, such as "pipeline ingest".
        lease_seconds: upper bound on how long a silent client may hold a transaction open.
        keep_plans: plan each statement once, whatever its parameters; for those that run with every message.

    Raises:
        psycopg.OperationalError: the server cannot be reached within five seconds, or refuses.
    """
    milliseconds = int(lease_seconds * 1000)
    settings = SESSION | {"idle_in_transaction_session_timeout": str(milliseconds)}
    if keep_plans:
        settings["plan_cache_mode"] = "force_generic_plan"
    connection = psycopg.connect(
        database_url,
        autocommit=True,
        row_factory=rows.dict_row,
        connect_timeout=5,
        application_name=name,
        tcp_user_timeout=milliseconds,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        options=session_options(database_url, settings),
    )
    require_fit(connection)
    if connection.execute("SHOW synchronous_commit").fetchone() == {"synchronous_commit": "off"}:
        connection.execute("SET synchronous_commit = on")  # what is committed is acknowledged in the inbox next
    return connection


def session_options(database_url: str, settings: Mapping[str, str]) -> str:
    """Return libpq's `options`: those of the URL, then these settings, which win."""
    require_readable(database_url)
    given = str(conninfo_to_dict(database_url).get("options") or "")
    escaped = {name: value.replace("\\", "\\\\").replace(" ", "\\ ") for name, value in settings.items()}
    return " ".join([given, *(f"-c {name}={value}" for name, value in escaped.items())]).strip()


def require_readable(database_url: str) -> None:
    """Check that libpq understands the URL and knows its options, before a worker retries what cannot succeed.

    Raises:
        UnfitDatabaseError: it does not.
    """
    try:
        conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:  # its text may hold a part of the password
        raise UnfitDatabaseError(
            "DATABASE_URL cannot be read: look at its options, and escape characters such as % (%25)"
        ) from None


def require_fit(connection: psycopg.Connection[Any]) -> None:
    """Check what no session can set.

    Raises:
        UnfitDatabaseError: the database cannot hold every text; the connection is closed.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        connection.pgconn.finish()
        raise UnfitDatabaseError(
            f"the database's encoding is {encoding}, which cannot hold every text: create it with ENCODING 'UTF8'"
        )


class PostgresConnection:
    """A connection that is made anew when it is lost; one per process, opened at first use."""

    def __init__(self, database_url: str, *, name: str) -> None:
        self._database_url = database_url
        self._name = name
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The connection, outside a transaction.

        Raises:
            psycopg.OperationalError: Postgres cannot be reached.
        """
        if self._connection is not None and self._connection.info.transaction_status != pq.TransactionStatus.IDLE:
            self._connection.close()  # interrupted in the middle: its state is unknown
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._database_url, name=self._name, keep_plans=True)
        return self._connection

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
