"""Single exchanges with Postgres below psycopg's cursors, for statements that run with every delivery.

Guarantees: the same errors as a cursor's; measured, an exchange takes 30 to 60 us of CPU where a cursor takes 200 to
300. They block in libpq, where signals wait: only for statements that the session's `statement_timeout` bounds. Refuses
parameters that are not texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, pq

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGresult

_GOOD = {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}


def say(connection: psycopg.Connection[Any], commands: str) -> PGresult:
    """Run commands without parameters, one after the other, in one round trip; return the last one's result.

    Raises:
        psycopg.Error: one of them failed; those behind it did not run.
    """
    return _checked(connection, connection.pgconn.exec_(commands.encode()))


def prepare(connection: psycopg.Connection[Any], name: str, statement: str) -> None:
    """Prepare a statement with parameters `$1` and so on. Raises psycopg.Error."""
    _checked(connection, connection.pgconn.prepare(name.encode(), statement.encode()))


def run(connection: psycopg.Connection[Any], name: str, parameters: Sequence[str]) -> PGresult:
    """Run a prepared statement. Raises psycopg.Error."""
    values = [parameter.encode() for parameter in parameters]
    return _checked(connection, connection.pgconn.exec_prepared(name.encode(), values))


def literal(connection: psycopg.Connection[Any], text: str) -> str:
    """Return a text as a literal of SQL."""
    return pq.Escaping(connection.pgconn).escape_literal(text.encode()).decode()


def _checked(connection: psycopg.Connection[Any], result: PGresult) -> PGresult:
    if result.status in _GOOD:
        return result
    if connection.pgconn.status == pq.ConnStatus.BAD:
        raise psycopg.OperationalError(connection.pgconn.get_error_message())
    raise errors.error_from_result(result)
