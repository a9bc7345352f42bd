"""The connection that handlers write through: one transaction per delivery, committed with its outcome.

Guarantees: what a handler wrote and the outcome of its delivery are committed together or not at all; the next
delivery finds a clean session. Refuses (`TransactionMisused`): a handler that ended, closed or spoiled the
transaction. A delivery that was taken over meanwhile is rolled back (`Fenced`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq, rows

from workers.errors import Fenced, TransactionMisused
from workers.store.connect import CHECK_CLIENT
from workers.store.deliveries import RECORD_SUCCESS
from workers.store.exchange import literal, prepare, run, say

if TYPE_CHECKING:
    from workers.store.deliveries import Claimed, Outcome

_BEGIN: Final = """BEGIN; SELECT set_config('pipeline.delivery', '{token}', true),
set_config('statement_timeout', '{bound}', true), set_config('idle_in_transaction_session_timeout', '{idle}', true)
"""
# The outcome is written to our tables, whatever path, role or temporary tables the handler has set up.
_CHECK: Final = """SELECT current_setting('pipeline.delivery', true),
EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE name = 'pipeline_success'),
set_config('search_path', {path}, true), set_config('role', 'none', true)
"""
# What DISCARD ALL does, and what it cannot: in one round trip with the end of the transaction, and our own prepared
# statement stays. Returns whether the handler has prepared some under names of its own.
_CLEAN: Final = """;
CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; SELECT pg_advisory_unlock_all();
DISCARD TEMP; DISCARD SEQUENCES; SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE from_sql)
"""
_SUCCESS: Final = "pipeline_success"


class HandlerSession:
    """Opens its connection at first use and keeps it for the next delivery."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._connection: psycopg.Connection[Any] | None = None
        self._token: str | None = None
        self._search_path = ""

    @property
    def used(self) -> bool:
        """Whether the current delivery has touched the connection."""
        return self._token is not None

    def begin(self, claimed: Claimed, *, seconds_left: float) -> psycopg.Connection[Any]:
        """Return the connection, in the transaction of this delivery.

        Args:
            claimed: the delivery.
            seconds_left: until its timeout; also the bound of each statement.

        Raises:
            psycopg.OperationalError: Postgres cannot be reached.
        """
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.Connection.connect(
                self._database_url,
                connect_timeout=5,
                application_name="pipeline handler",
                tcp_user_timeout=10_000,
                options=f"{CHECK_CLIENT} -c timezone=UTC",
                # What a handler prepares would be lost, or found by the next one.
                prepare_threshold=None,
            )
            (path,) = self._connection.execute("SHOW search_path").fetchone() or ("",)
            self._search_path = literal(self._connection, f"{path}, pg_temp")
            self._connection.rollback()
        if not self.used:
            self._token = f"{claimed.event_id}/{claimed.fence}"
            # A stopped process must not hold locks beyond its lease, which ends some seconds after the timeout.
            bound = max(1, int(seconds_left * 1000))
            say(self._connection, _BEGIN.format(token=self._token, bound=bound, idle=bound + 1000))
        return self._connection

    def commit(self, handler: str, outcome: Outcome) -> None:
        """Record a success in the handler's transaction and commit both.

        Raises:
            TransactionMisused: the transaction is not the one that was begun, or is aborted.
            Fenced: the delivery is no longer ours; everything is rolled back.
            psycopg.Error: the commit failed; whether it counted is unknown, the fence decides.
        """
        connection, token, self._token = self._connection, self._token, None
        if connection is None or token is None:
            raise TransactionMisused("no transaction was begun")
        try:
            counted = self._record(connection, token, handler, outcome.claimed)
            if counted:
                self._end(connection, "COMMIT")
        except BaseException:
            self.discard()
            raise
        if not counted:
            self.discard()
            raise Fenced("taken over by another run after the lease")

    def roll_back(self) -> None:
        """Undo what the handler wrote; a connection that cannot do that at once is thrown away."""
        connection, token, self._token = self._connection, self._token, None
        if connection is None or token is None:
            return
        if connection.closed or connection.info.transaction_status == pq.TransactionStatus.ACTIVE:
            self.discard()
            return
        try:
            self._end(connection, "ROLLBACK")
        except BaseException as error:
            self.discard()
            if not isinstance(error, psycopg.Error):
                raise

    def discard(self) -> None:
        """Throw the connection away, cancelling what still runs on it."""
        connection, self._connection, self._token = self._connection, None, None
        if connection is None or connection.closed:
            return
        if connection.info.transaction_status == pq.TransactionStatus.ACTIVE:
            # If that fails, the server is gone, or its statement_timeout ends what runs.
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=2.0)
        connection.close()

    def _end(self, connection: psycopg.Connection[Any], how: str) -> None:
        """End the transaction and let nothing of it reach the next: settings, temporary tables, listens, locks."""
        prepared = say(connection, how + _CLEAN).get_value(0, 0)
        connection.row_factory = rows.tuple_row
        if prepared != b"f":
            self.discard()

    def _record(self, connection: psycopg.Connection[Any], token: str, handler: str, claimed: Claimed) -> bool:
        """Record a success in the transaction that we began; say whether it counted."""
        if connection.closed:
            raise TransactionMisused("the handler closed delivery.connection; leave that to the worker")
        status = connection.info.transaction_status
        if status == pq.TransactionStatus.INERROR:
            raise TransactionMisused(
                "the handler swallowed a database error and left the transaction aborted; let it raise, or wrap the "
                "statement in `with delivery.connection.transaction():`"
            )
        if status == pq.TransactionStatus.INTRANS:
            checked = say(connection, _CHECK.format(path=self._search_path))
            if checked.get_value(0, 0) == token.encode():
                if checked.get_value(0, 1) != b"t":
                    prepare(connection, _SUCCESS, RECORD_SUCCESS)
                result = run(connection, _SUCCESS, [str(claimed.event_id), handler, str(claimed.fence)])
                return result.command_tuples == 1
        raise TransactionMisused(
            "the handler ended the transaction of delivery.connection (commit or rollback); it commits with the outcome"
        )
