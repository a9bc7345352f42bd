"""Connections to Postgres, set up so that a stopped process cannot hold the others' locks.

Guarantees: autocommit until a transaction is asked for; a session idle in a transaction, or cut off from its client,
is ended by the server within `lease_seconds`. Refuses: an unreachable server, with psycopg's `OperationalError`.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import pq, rows

UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError)
"""Postgres is away, or cut the connection: the environment, not the data."""
CHECK_CLIENT = "-c client_connection_check_interval=2000"
"""Postgres looks every 2 s whether the client of a running statement still exists. Without it, the session of a killed
process that waits for a lock keeps its own locks until it has got that one, and holds its successor up."""
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
    return psycopg.connect(
        database_url,
        autocommit=True,
        row_factory=rows.dict_row,
        connect_timeout=5,
        application_name=name,
        tcp_user_timeout=milliseconds,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        # Later statements must see what others committed meanwhile, whatever the database's default is.
        options=f"{CHECK_CLIENT} -c idle_in_transaction_session_timeout={milliseconds} -c timezone=UTC"
        r" -c default_transaction_isolation=read\ committed"
        + (" -c plan_cache_mode=force_generic_plan" if keep_plans else ""),
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
