"""Connections to Postgres, set up so that a stopped process cannot hold the others' locks.

Guarantees: autocommit until a transaction is asked for; a session idle in a transaction, or cut off from its client,
is ended by the server within `lease_seconds`. Every session has the settings that it relies on, through a session
pooler too; one that is shared by transaction is refused (`workers.store.pooler`). An unreachable server is psycopg's
`OperationalError`.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from psycopg import pq, rows
from psycopg.conninfo import conninfo_to_dict

from workers.store import pooler
from workers.store.exchange import execute_simple, literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)
"""Postgres is away, cut the connection, has no room for one, or is no longer the primary (25006): the environment, not
the data. Whoever meets one closes the connection: a session stays on a server that was demoted, where `SELECT 1` goes
on to answer."""
TIMED_OUT: Final = (psycopg.errors.QueryCanceled,)
"""A statement took longer than the session's `statement_timeout`."""
SCHEMA_MISSING: Final = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
)
"""Our own statements name what is not there: the database was not migrated for this version."""
REFUSED: Final = (psycopg.errors.InsufficientPrivilege,)
"""The role may not do what a statement of ours does."""
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
KEPT_PLANS: Final = {
    "plan_cache_mode": "force_generic_plan",
    # A plan made while a table was empty would read all of it, and is kept until Postgres analyzes the table, a minute
    # or more after it has filled: a claim of 64 deliveries took seconds.
    "enable_seqscan": "off",
    "jit": "off",  # up to version 17 the estimate of a table that can only be read whole is above `jit_above_cost`
}
"""Plans that are made once must suit a table of any size."""
HANDLERS_OWN: Final = ("row_security", "lock_timeout", "default_transaction_isolation")
"""What is left to a role or a database in the sessions of handlers: it is about the team's own tables."""


_SHARED: Final = (
    "a transaction pooler stands between the pipeline and Postgres at {place}: settings, locks and prepared statements "
    "of a session would be lost or another's. Use its session mode (Supabase: port 5432, not 6543; pgbouncer: "
    "pool_mode=session), or Postgres' own host and port (Neon: the host without -pooler)"
)


class UnfitDatabaseError(psycopg.OperationalError):
    """The database is not one that the pipeline can use; the text says why and what to do."""


Connection = psycopg.Connection[dict[str, Any]]
"""Rows come as dictionaries."""
C = TypeVar("C", bound=psycopg.Connection[Any])


def bound_statements(connection: Connection, seconds: float, *, is_local: bool) -> None:
    """Let no statement take longer than this many seconds: in this transaction if `is_local`, else in this session."""
    connection.execute("SELECT set_config('statement_timeout', %s, %s)", [f"{seconds * 1000:.0f}ms", is_local])


@contextmanager
def bounded(connection: Connection, seconds: float) -> Iterator[None]:
    """Let no statement of the block, which is a transaction or a part of one, take longer than this many seconds.

    What follows in the same transaction has the bound that was there before.
    """
    with connection.transaction():
        (row,) = connection.execute("SELECT current_setting('statement_timeout') AS before").fetchall()
        bound_statements(connection, seconds, is_local=True)
        yield
        connection.execute("SELECT set_config('statement_timeout', %s, true)", [row["before"]])


def connect(
    database_url: str, *, name: str, schema: str = "", lease_seconds: float = 30.0, keep_plans: bool = False
) -> Connection:
    """Open one connection.

    Args:
        database_url: a postgresql:// URL; of several hosts, the first that answers and suits `target_session_attrs`.
        name: what pg_stat_activity shows, such as "pipeline ingest".
        schema: of the pipeline's tables; empty leaves `search_path` to the URL, the role and the database.
        lease_seconds: upper bound on how long a silent client may hold a transaction open.
        keep_plans: plan each statement once, whatever its parameters; for those that run with every message.

    Raises:
        psycopg.OperationalError: the server cannot be reached within five seconds a host, or refuses.
        UnfitDatabaseError: it is none that can be used.
    """
    milliseconds = int(lease_seconds * 1000)
    settings = SESSION | {"idle_in_transaction_session_timeout": str(milliseconds)}
    if schema:
        settings["search_path"] = schema
    if keep_plans:
        settings |= KEPT_PLANS
    connection, _ = open_session(
        psycopg.Connection[dict[str, Any]], database_url, settings, name=name, tcp_user_timeout=milliseconds
    )
    connection.autocommit = True
    connection.row_factory = rows.dict_row
    if execute_simple(connection, "SHOW synchronous_commit").get_value(0, 0) == b"off":
        execute_simple(connection, "SET synchronous_commit = on")  # what is committed is acknowledged in the inbox next
    return connection


def open_session(
    kind: type[C], database_url: str, settings: Mapping[str, str], *, name: str, tcp_user_timeout: int
) -> tuple[C, str]:
    """Open a session in which these settings hold.

    1. Connect with the settings, and those of PGOPTIONS and the URL, in libpq's `options`; without where a pooler takes
       none.
    2. Check the encoding.
    3. If a pooler stands in between, see that the session is ours alone, clean it and set all of it by a statement.

    Returns:
        The connection, and the statement that does so again after a `RESET ALL`; it is empty without a pooler.
    """
    given = _given_options(database_url)
    options = " ".join([*given, *(f"-c {setting}={_escaped(value)}" for setting, value in settings.items())])
    parameters: dict[str, Any] = {
        "connect_timeout": 5,
        "application_name": name,
        "tcp_user_timeout": tcp_user_timeout,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
    }
    try:
        connection = kind.connect(database_url, options=options, **parameters)
    except psycopg.OperationalError as error:
        if pooler.REFUSES_OPTIONS not in str(error):
            raise
        connection = kind.connect(database_url, options="", **parameters)
    try:
        _require_encoding(connection)
        if pooler.is_direct(connection):
            return connection, ""
        info = connection.info
        parameters |= {"options": "", "host": info.host, "hostaddr": info.hostaddr, "port": info.port}
        _require_session(connection, lambda: psycopg.connect(database_url, **parameters))
        execute_simple(connection, "DISCARD ALL")  # a pooler may hand on what its last client has left
        by_statement = _set_settings(connection, {**_settings_of(given), **settings})
        execute_simple(connection, by_statement)
    except TimeoutError as error:
        connection.pgconn.finish()
        raise psycopg.OperationalError(str(error)) from None
    except BaseException:
        connection.pgconn.finish()
        raise
    return connection, by_statement


def _require_session(connection: psycopg.Connection[Any], connect_again: Callable[[], psycopg.Connection[Any]]) -> None:
    """Raise `UnfitDatabaseError` if a session of this pooler is shared with others."""
    if not pooler.is_ours_alone(connection, connect_again):
        raise UnfitDatabaseError(_SHARED.format(place=f"{connection.info.host}:{connection.info.port}"))


def _given_options(database_url: str) -> list[str]:
    """Return libpq's `options` of PGOPTIONS, then of the URL, which win; libpq itself takes one of the two."""
    require_readable(database_url)
    by_environment = next((it.val for it in pq.Conninfo.get_defaults() if it.keyword == b"options"), None) or b""
    by_url = str(conninfo_to_dict(database_url).get("options") or "")
    return [options for options in (by_environment.decode(), by_url) if options]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _settings_of(options: Iterable[str]) -> dict[str, str]:
    """Return the settings in `-c name=value` and `--name=value`, for a pooler that drops them or refuses them."""
    words = [re.sub(r"\\(.)", r"\1", word) for text in options for word in re.findall(r"(?:\\.|[^\s\\])+", text)]
    settings, rest = {}, iter(words)
    for word in rest:
        setting, equals, value = (next(rest, "") if word == "-c" else re.sub("^(-c|--)", "", word)).partition("=")
        if not equals or setting.startswith("-"):
            raise UnfitDatabaseError(
                f"the option {word!r} of DATABASE_URL or PGOPTIONS does not pass the pooler in front of Postgres: "
                "write it as -c name=value, or leave it out"
            )
        settings[setting.replace("-", "_")] = value
    return settings


def _set_settings(connection: psycopg.Connection[Any], settings: Mapping[str, str]) -> str:
    calls = (f"set_config({literal(connection, it)}, {literal(connection, settings[it])}, false)" for it in settings)
    return f"SELECT {', '.join(calls)}"


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


def _require_encoding(connection: psycopg.Connection[Any]) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise UnfitDatabaseError(
            f"the database's encoding is {encoding}, which cannot hold every text: create it with ENCODING 'UTF8'"
        )


class PostgresConnection:
    """A connection that is made anew when it is lost; one per process, opened at first use."""

    def __init__(self, database_url: str, *, name: str, schema: str = "") -> None:
        self._database_url = database_url
        self._name = name
        self._schema = schema
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
            self._connection = connect(self._database_url, name=self._name, schema=self._schema, keep_plans=True)
        return self._connection

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
