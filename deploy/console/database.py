"""The console's connections to Postgres: two at most, with a bound on every statement.

A page waits a moment for a free one. One that broke is opened anew, so that a failover costs one page.
"""

import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus

from workers.store.connect import UNREACHABLE, Connection, bound_statements, connect

CONNECTIONS: Final = 2
FREE_SECONDS: Final = 5.0
"""For which a page waits for a free connection."""
READ_SECONDS: Final = 5.0
"""Bound on a statement of a page."""
CHANGE_SECONDS: Final = 30.0
"""Bound on a statement of a change."""


class BusyError(Exception):
    """Both connections were in use for `FREE_SECONDS`."""


class Database:
    """Hands out connections, one to a request at a time."""

    def __init__(self, url: str, *, schema: str = "") -> None:
        self._url = url
        self._schema = schema
        self._free: queue.LifoQueue[Connection | None] = queue.LifoQueue()
        for _ in range(CONNECTIONS):
            self._free.put(None)

    @contextmanager
    def connection(self, *, seconds: float) -> Iterator[Connection]:
        """Lend a connection, in autocommit; no statement on it takes longer than `seconds`.

        Raises:
            BusyError: none became free.
            psycopg.OperationalError: Postgres cannot be reached.
        """
        try:
            held = self._free.get(timeout=FREE_SECONDS)
        except queue.Empty:
            raise BusyError from None
        try:
            held = self._prepare(held, seconds)
            try:
                yield held
            except UNREACHABLE:
                held.close()
                raise
        finally:
            if held is not None and held.info.transaction_status != TransactionStatus.IDLE:
                held.close()  # a request that broke off in the middle: its state is unknown
            self._free.put(None if held is None or held.closed else held)

    def _prepare(self, held: Connection | None, seconds: float) -> Connection:
        """Return a connection that answers: the one that was kept, or a new one."""
        if held is not None and not held.closed:
            with suppress(*UNREACHABLE):
                bound_statements(held, seconds, is_local=False)
                return held
            held.close()
        held = connect(self._url, name="pipeline console", schema=self._schema)
        bound_statements(held, seconds, is_local=False)
        return held

    def close(self) -> None:
        """Close those that nobody uses."""
        with suppress(queue.Empty):
            while True:
                held = self._free.get_nowait()
                if held is not None:
                    with suppress(psycopg.Error):
                        held.close()
