"""Poolers between the pipeline and Postgres: is there one, and does a session keep its server?

Guarantees: no name, port or version of a pooler is asked for; what counts is whose server process answers. A pooler
cannot hand on the key by which a server is told to cancel, so a session whose key names another process than the one
that answers is no direct one. In a pooler's session mode the process stays ours. In transaction mode it is given to
the next client after each transaction: another client then finds our process or our settings, or we find another one.
"""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import psycopg

from workers.store.exchange import execute_many, is_good

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSES_OPTIONS: Final = "startup parameter"
"""Part of what pgbouncer, and what is made from it, says of libpq's `options`."""
_ROUNDS: Final = 4
"""How often another client's transaction is put in between: other clients may take our process before it does."""
_SECONDS: Final = 5.0
"""How long an answer is waited for."""
_LOOK: Final = "SELECT pg_backend_pid(), current_setting('pipeline.session', true)"


def is_direct(connection: psycopg.Connection[Any]) -> bool:
    """Return whether the process that answers is the one that the connection was made to."""
    return _ask(connection, "SELECT pg_backend_pid()") == (str(connection.pgconn.backend_pid),)


def is_ours_alone(connection: psycopg.Connection[Any], connect_again: Callable[[], psycopg.Connection[Any]]) -> bool:
    """Return whether a session keeps its server process and its settings while another client works.

    Where no other client gets a server process in time, none of it can be seen: the answer is yes.
    """
    try:
        other = connect_again()
    except psycopg.OperationalError:
        return True
    with closing(other):
        try:
            return all(_stays(connection, other) for _ in range(_ROUNDS))
        except TimeoutError:
            return True


def _stays(connection: psycopg.Connection[Any], other: psycopg.Connection[Any]) -> bool:
    """Set something, let the other client begin a transaction, and look at what each of the two has now."""
    token = uuid.uuid4().hex
    ours = _ask(connection, f"SET pipeline.session = '{token}'; {_LOOK}")
    try:
        theirs = _ask(other, f"BEGIN; {_LOOK}")
    except psycopg.Error as error:
        if "transaction" in str(error):
            return False  # a pooler in statement mode refuses to begin one
        raise
    if theirs[0] == ours[0] or theirs[1] == token:
        return False
    try:
        return _ask(connection, _LOOK) == ours
    except TimeoutError:
        return False  # a process of our own would have answered
    finally:
        _ask(other, "ROLLBACK; SELECT 1")


def _ask(connection: psycopg.Connection[Any], commands: str) -> tuple[str | None, ...]:
    """Return the last command's row. Raises TimeoutError."""
    result = execute_many(connection, commands, seconds=_SECONDS)[-1]
    if not is_good(result):
        raise psycopg.errors.error_from_result(result)
    values = (result.get_value(0, column) for column in range(result.nfields))
    return tuple(None if value is None else value.decode() for value in values)
