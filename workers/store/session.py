"""The connection that handlers write through: one transaction per delivery, committed with its outcome.

Guarantees: what a handler wrote and the outcome of its delivery are committed together or not at all; the next
delivery finds a clean session, and a connection object of its own. Ending, closing or spoiling the transaction is
`TransactionMisused`, and so is any use of an earlier delivery's connection. A delivery that was taken over meanwhile is
rolled back (`Fenced`).
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import psycopg
from psycopg import errors, pq

from workers.errors import Fenced, TransactionMisused
from workers.store.connect import HANDLERS_OWN, SESSION, UnfitDatabaseError, open_session
from workers.store.exchange import error_of, execute_many, execute_simple, is_good, literal, prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGresult

    from workers.store.deliveries import Claimed, Outcome

# Each in one round trip. SET LOCAL and not set_config: a SELECT would be planned each time, 35 us of Postgres' time.
_BEGIN: Final = """BEGIN; SET LOCAL pipeline.delivery = '{mark}'; SET LOCAL statement_timeout = {bound};
SET LOCAL idle_in_transaction_session_timeout = {idle}"""
# The handler may have taken another role.
_FINISH: Final = """SET LOCAL statement_timeout = 10000; SET LOCAL ROLE NONE;
SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off;
EXECUTE pipeline_success({event}, {handler}, {fence}, {token}, {mark}, {seconds}); COMMIT"""
_COMMITTED: Final = 6
"""Results of `_FINISH` when all of it went well."""
# What DISCARD ALL does, but for our own prepared statement, which stays.
_CLEAN: Final = """; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *;
SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"""
_SUCCESS: Final = "pipeline_success"
# Returns how many statements the handler has prepared under names of its own, too.
_RECORD_SUCCESS: Final = """
SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements WHERE name <> 'pipeline_success'),
       {schema}.record_success($1, $2, $3, $4, $5, $6)"""
_IS_OURS_ALONE: Final = f"SELECT bool_and(name = '{_SUCCESS}') FROM pg_prepared_statements"
_PATH: Final = "SELECT quote_ident(name) FROM unnest(current_schemas(false)) AS name"
# The first of the schemas that has it, and whether the role may call it.
_FUNCTION: Final = """
SELECT quote_ident(n.nspname),
       has_function_privilege(p.oid, 'EXECUTE') AND has_schema_privilege(n.oid, 'USAGE'), current_user
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE p.proname = 'record_success' AND n.nspname = ANY ({schemas})
ORDER BY array_position({schemas}, n.nspname) LIMIT 1"""
_SETTINGS: Final = {name: value for name, value in SESSION.items() if name not in HANDLERS_OWN}
LEAVE_SECONDS: Final = 2.0
"""In which a thread leaves a connection that is thrown away, once what it does there is cancelled."""
_IN_TRANSACTION: Final = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)
_OLD: Final = (
    "the handler used the connection of an earlier delivery; take delivery.connection anew in each delivery, and keep "
    "nothing that holds it"
)
_IN_USE: Final = "a thread of the handler still uses delivery.connection; wait for it before the handler returns"
_NOT_YOURS: Final = "delivery.connection commits with the outcome: leave {what} to the worker"
_NO_FUNCTION: Final = (
    "the function record_success is not found for delivery.connection: HANDLER_DATABASE_URL must name the database of "
    "DATABASE_URL, and without DATABASE_SCHEMA the search_path of its role must lead to the pipeline's tables"
)
_NO_RIGHT: Final = (
    "the role {role} of delivery.connection may not call the function record_success: let the tables' owner run what "
    "`pipeline grants --handlers {role}` prints"
)
_ENDED: Final = (
    "the handler ended the transaction of delivery.connection (commit or rollback); it commits with the outcome"
)


class DeliveryConnection(psycopg.Connection[Any]):
    """What a handler gets: one for each delivery, around the session that they share.

    Everything that psycopg does on a connection goes through `wait`, but for cancelling; so do its cursors.
    """

    over_because: str | None = None

    @classmethod
    def around(cls, pgconn: pq.abc.PGconn) -> DeliveryConnection:
        """Return a new object for an open session, with none of what a handler has set on another."""
        connection = cls(pgconn)
        connection.prepare_threshold = None  # what a handler prepares would be lost, or found by the next one
        return connection

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to do anything once the delivery is over."""
        self._require_current()
        return super().wait(*args, **kwargs)

    def _require_current(self) -> None:
        if self.over_because is not None:
            raise TransactionMisused(self.over_because)

    def end(self) -> bool:
        """Let nothing more be done with it; return False if a thread is doing something right now."""
        is_free = self.lock.acquire(blocking=False)
        self.over_because = _OLD
        if is_free:
            self.lock.release()
        return is_free

    def cancel(self) -> None:
        """Cancel what runs, unless that is the next delivery's."""
        self._require_current()
        super().cancel()

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Do the same, and wait for it."""
        self._require_current()
        super().cancel_safe(timeout=timeout)

    def commit(self) -> None:
        """Refuse."""
        raise TransactionMisused(_NOT_YOURS.format(what="commit"))

    def rollback(self) -> None:
        """Refuse."""
        raise TransactionMisused(_NOT_YOURS.format(what="rollback"))

    def close(self) -> None:
        """Refuse."""
        raise TransactionMisused(_NOT_YOURS.format(what="close"))

    def __enter__(self) -> Self:
        raise TransactionMisused(
            "`with delivery.connection` would commit and close it; use it without `with`, or write "
            "`with delivery.connection.transaction():` for a savepoint"
        )

    def __del__(self) -> None:  # type: ignore[override]
        """Leave the session open: the object of the next delivery uses it."""


class HandlerSession:
    """Opens its connection at first use and keeps it for the next delivery."""

    def __init__(self, database_url: str, *, schema: str = "") -> None:
        """Take note of where to connect.

        Args:
            database_url: a postgresql:// URL.
            schema: of the pipeline's tables; empty means where the session's own `search_path` points.
        """
        self._database_url = database_url
        self._schema = schema
        self._connection: DeliveryConnection | None = None
        self._mark: str | None = None
        self._path = ""
        """`search_path` of handlers, where it is not the session's."""
        self._begin, self._clean, self._record_success = _BEGIN, _CLEAN, ""
        self.unavailable: psycopg.Error | None = None
        """Why the current delivery has got no connection when it asked for one: not its handler's fault."""

    def check(self) -> None:
        """See that a success could be recorded.

        Raises:
            UnfitDatabaseError: it could not; the text says why and what to do.
            psycopg.OperationalError: Postgres cannot be reached.
        """
        self._connection = self._connect()
        self.discard()

    @property
    def used(self) -> bool:
        """Whether the current delivery has touched the connection, or what an earlier one has kept of it."""
        return self._mark is not None or self._is_in_transaction()

    def begin(self, claimed: Claimed, *, seconds_left: float) -> psycopg.Connection[Any]:
        """Return the connection, in the transaction of this delivery.

        Args:
            claimed: the delivery.
            seconds_left: until its timeout; also the bound of each statement.

        Raises:
            psycopg.OperationalError: Postgres cannot be reached.
        """
        if self._mark is None:
            if self._is_in_transaction():
                self.discard()
            self._mark = f"{claimed.event_id}/{claimed.fence}"
            # A stopped process must not hold locks beyond its lease, which ends some seconds after the timeout.
            bound = max(1, int(seconds_left * 1000))
            if self._connection is not None and not self._connection.closed:
                try:
                    self._begin_transaction(self._connection, bound)
                except psycopg.OperationalError:
                    self._connection.pgconn.finish()  # it was cut while it was idle, through no fault of this delivery
            if self._connection is None or self._connection.closed:
                try:
                    self._connection = self._connect()
                except psycopg.OperationalError as error:
                    self.unavailable = error
                    raise
                self._begin_transaction(self._connection, bound)
        if self._connection is None:
            raise psycopg.OperationalError("the connection was thrown away")
        return self._connection

    def commit(self, handler: str, outcome: Outcome) -> None:
        """Record a success in the handler's transaction and commit both.

        Raises:
            TransactionMisused: the transaction is not the one that was begun, or is aborted.
            Fenced: the delivery is no longer ours; everything is rolled back.
            psycopg.Error: the commit failed; whether it counted is unknown, the fence decides.
        """
        connection, mark, self._mark = self._connection, self._mark, None
        if connection is None or mark is None:
            self.discard()
            raise TransactionMisused(_OLD)
        try:
            require_open_transaction(connection, is_free=connection.end())
            if connection.prepare_threshold is not None:  # psycopg then deallocates all after a rollback of its own
                execute_simple(connection, "DEALLOCATE ALL")
                prepare(connection, _SUCCESS, self._record_success)
            results = execute_many(connection, self._finish_commands(connection, mark, handler, outcome))
            _require_commit(connection, results)
        except BaseException:
            self.discard()
            raise
        has_prepared = results[_COMMITTED - 2].get_value(0, 0) != b"0"
        if has_prepared or not is_good(results[-1]):
            self.discard()  # committed all the same
        else:
            self._connection = DeliveryConnection.around(connection.pgconn)

    def roll_back(self) -> None:
        """Undo what the handler wrote; a connection that cannot do that at once is thrown away."""
        connection, mark, self._mark = self._connection, self._mark, None
        if connection is None or not (mark or self._is_in_transaction()):
            return
        is_free = connection.end()
        if not is_free or connection.closed or connection.info.transaction_status == pq.TransactionStatus.ACTIVE:
            self.discard()
            return
        try:
            self._end(connection)
        except BaseException as error:
            self.discard()
            if not isinstance(error, psycopg.Error):
                raise

    def discard(self) -> None:
        """Throw the connection away, cancelling what still runs on it."""
        connection, self._connection, self._mark = self._connection, None, None
        if connection is None or connection.closed:
            return
        connection.end()
        ends, is_free = time.monotonic() + LEAVE_SECONDS, False
        while not is_free:  # libpq's memory must not go while a thread is in it
            if time.monotonic() > ends:
                return  # closed when that thread lets go of it
            if connection.info.transaction_status == pq.TransactionStatus.ACTIVE:
                # If that fails, the server is gone, or its statement_timeout ends what runs.
                with suppress(psycopg.Error):
                    DeliveryConnection.around(connection.pgconn).cancel_safe(timeout=LEAVE_SECONDS)
            is_free = connection.lock.acquire(timeout=0.05)
        connection.lock.release()
        connection.pgconn.finish()

    def _is_in_transaction(self) -> bool:
        connection = self._connection
        return connection is not None and connection.info.transaction_status in _IN_TRANSACTION

    def _connect(self) -> DeliveryConnection:
        """Open a connection on which a success can be recorded."""
        connection, settings = open_session(
            DeliveryConnection, self._database_url, _SETTINGS, name="pipeline handler", tcp_user_timeout=10_000
        )
        try:
            self._set_path(connection)
            self._record_success = _RECORD_SUCCESS.format(schema=_require_function(connection, self._schema))
            prepare(connection, _SUCCESS, self._record_success)
        except BaseException:
            connection.pgconn.finish()
            raise
        self._clean = f"{_CLEAN}; {settings}" if settings else _CLEAN
        return DeliveryConnection.around(connection.pgconn)

    def _set_path(self, connection: DeliveryConnection) -> None:
        """Decide on the `search_path` of handlers.

        They have the session's. A role of our schema's name has that first of all: it is moved to the end, so that it
        does not hide the team's tables.
        """
        found = execute_simple(connection, _PATH)
        usual = [(found.get_value(row, 0) or b"").decode() for row in range(found.ntuples)]
        handlers_own = sorted(usual, key=lambda name: name == self._schema)
        self._begin = _BEGIN if handlers_own == usual else f"{_BEGIN}; SET LOCAL search_path = {{path}}"
        self._path = ", ".join(handlers_own)

    def _begin_transaction(self, connection: DeliveryConnection, bound: int) -> None:
        execute_simple(connection, self._begin.format(mark=self._mark, bound=bound, idle=bound + 1000, path=self._path))

    def _end(self, connection: DeliveryConnection) -> None:
        """Roll back and let nothing of it reach the next: settings, temporary tables, listens, locks."""
        is_ours_alone = execute_simple(connection, f"ROLLBACK{self._clean}; {_IS_OURS_ALONE}").get_value(0, 0)
        if is_ours_alone == b"t":
            self._connection = DeliveryConnection.around(connection.pgconn)
        else:
            self.discard()

    def _finish_commands(self, connection: psycopg.Connection[Any], mark: str, handler: str, outcome: Outcome) -> str:
        claimed = outcome.claimed
        return (_FINISH + self._clean).format(
            event=f"'{claimed.event_id}'",
            handler=literal(connection, handler),
            fence=claimed.fence,
            token=f"'{claimed.token}'",
            mark=f"'{mark}'",
            seconds=outcome.duration or 0.0,
        )


def find_function(connection: psycopg.Connection[Any], schema: str) -> str | None:
    """Return the schema in which `record_success` is, quoted; None where it is not found.

    Args:
        connection: of any role.
        schema: of the pipeline's tables; empty means the first of the session's `search_path` that has it.

    Raises:
        UnfitDatabaseError: this role may not call it.
    """
    schemas = f"ARRAY[{literal(connection, schema)}]::name[]" if schema else "current_schemas(false)"
    found = execute_simple(connection, _FUNCTION.format(schemas=schemas))
    if not found.ntuples:
        return None
    name, may_call, role = ((found.get_value(0, column) or b"").decode() for column in range(3))
    if may_call != "t":
        raise UnfitDatabaseError(_NO_RIGHT.format(role=role))
    return name


def _require_function(connection: psycopg.Connection[Any], schema: str) -> str:
    found = find_function(connection, schema)
    if found is None:
        raise UnfitDatabaseError(_NO_FUNCTION)
    return found


def require_open_transaction(connection: DeliveryConnection, *, is_free: bool) -> None:
    """Raise `TransactionMisused` if what is seen from here shows that the handler has touched it."""
    if not is_free:
        raise TransactionMisused(_IN_USE)
    if connection.closed:
        raise psycopg.OperationalError("the connection was lost")
    status = connection.info.transaction_status
    if status == pq.TransactionStatus.INERROR:
        raise TransactionMisused(
            "the handler swallowed a database error and left the transaction aborted; let it raise, or wrap the "
            "statement in `with delivery.connection.transaction():`"
        )
    if status != pq.TransactionStatus.INTRANS:
        raise TransactionMisused(_ENDED)


def _require_commit(connection: psycopg.Connection[Any], results: Sequence[PGresult]) -> None:
    """Raise the error of a commit that did not happen."""
    if len(results) >= _COMMITTED and results[_COMMITTED - 1].command_status == b"COMMIT":
        return
    error = error_of(connection, results[-1])
    is_of_our_statement = len(results) < _COMMITTED  # the COMMIT's own error is a deferred constraint's
    if is_of_our_statement and isinstance(error, errors.NoDataFound):
        raise Fenced("taken over by another run after the lease")
    if is_of_our_statement and isinstance(error, errors.InvalidTransactionState):
        raise TransactionMisused(_ENDED)
    if is_of_our_statement and isinstance(error, errors.InvalidSqlStatementName):
        raise TransactionMisused("the handler deallocated the worker's prepared statements; deallocate by name")
    raise error
