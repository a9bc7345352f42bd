"""What `workers.store.session` takes for granted about psycopg's connections; the version is bounded to match.

- All that a connection and its cursors do passes through `Connection.wait`, so that refusing there refuses everything.
- `Connection.lock` is held while a thread does something with the connection.
- A `Connection` may be made around an open session, and one that is dropped leaves the session open if `__del__` does.
"""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import pq

from workers.errors import TransactionMisused
from workers.store.session import DeliveryConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# psycopg says so of a server cursor that is dropped unclosed, which here it has to be
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*ServerCursor:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def own(database_url: str) -> Iterator[DeliveryConnection]:
    """A delivery's connection in its transaction."""
    connection = DeliveryConnection.connect(database_url)
    connection.execute("CREATE TEMP TABLE kept (number int)")
    yield connection
    connection.pgconn.finish()


def begin_copy_in(own: DeliveryConnection) -> Callable[[], object]:
    copy = own.cursor().copy("COPY kept FROM STDIN").__enter__()
    return lambda: copy.write("1\n")


def begin_copy_out(own: DeliveryConnection) -> Callable[[], object]:
    copy = own.cursor().copy("COPY (SELECT generate_series(1, 9)) TO STDOUT").__enter__()
    return copy.read


def begin_stream(own: DeliveryConnection) -> Callable[[], object]:
    rows = own.cursor().stream("SELECT generate_series(1, 9)")
    next(rows)
    return lambda: next(rows)


def begin_server_cursor(own: DeliveryConnection) -> Callable[[], object]:
    cursor = own.cursor("mine")
    cursor.execute("SELECT generate_series(1, 9)")
    return cursor.fetchone


def begin_cursor(own: DeliveryConnection) -> Callable[[], object]:
    cursor = own.cursor()
    return lambda: cursor.execute("INSERT INTO kept VALUES (1)")


def begin_savepoint(own: DeliveryConnection) -> Callable[[], object]:
    block = own.transaction()
    block.__enter__()
    return lambda: block.__exit__(None, None, None)


def begin_pipeline(own: DeliveryConnection) -> Callable[[], object]:
    pipeline = own.pipeline().__enter__()

    def write() -> None:
        own.execute("INSERT INTO kept VALUES (1)")
        pipeline.sync()

    return write


LATER = [
    begin_copy_in,
    begin_copy_out,
    begin_stream,
    begin_server_cursor,
    begin_cursor,
    begin_savepoint,
    begin_pipeline,
]


@pytest.mark.parametrize("begin", LATER, ids=lambda it: it.__name__)
def test_what_was_begun_on_a_connection_is_refused_once_its_delivery_is_over(
    own: DeliveryConnection, begin: Callable[[DeliveryConnection], Callable[[], object]]
) -> None:
    go_on = begin(own)
    own.end()
    with pytest.raises(TransactionMisused, match="earlier delivery"):
        go_on()


AFRESH: list[tuple[str, Callable[[DeliveryConnection], object]]] = [
    ("execute", lambda own: own.execute("INSERT INTO kept VALUES (1)")),
    ("execute with parameters", lambda own: own.execute("INSERT INTO kept VALUES (%s)", [1])),
    ("executemany", lambda own: own.cursor().executemany("INSERT INTO kept VALUES (%s)", [[1], [2]])),
    ("copy", lambda own: own.cursor().copy("COPY kept FROM STDIN").__enter__()),
    ("stream", lambda own: next(own.cursor().stream("SELECT 1"))),
    ("server cursor", lambda own: own.cursor("mine").execute("SELECT 1")),
    ("transaction", lambda own: own.transaction().__enter__()),
    ("pipeline", lambda own: own.pipeline().__enter__()),
    ("notifies", lambda own: next(own.notifies(timeout=0))),
    ("two-phase commit", lambda own: own.tpc_begin("mine")),
    ("cancel", lambda own: own.cancel()),
    ("cancel and wait", lambda own: own.cancel_safe()),
    ("autocommit", lambda own: own.set_autocommit(True)),
    ("isolation level", lambda own: own.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)),
]


@pytest.mark.parametrize(("name", "act"), AFRESH, ids=[name for name, _ in AFRESH])
def test_a_connection_refuses_everything_once_its_delivery_is_over(
    own: DeliveryConnection, name: str, act: Callable[[DeliveryConnection], object]
) -> None:
    own.end()
    with pytest.raises(TransactionMisused, match="earlier delivery"):
        act(own)


def test_the_lock_is_held_while_a_thread_executes_and_only_then(own: DeliveryConnection, database_url: str) -> None:
    assert not own.lock.locked()
    pid = own.info.backend_pid
    thread = threading.Thread(target=own.execute, args=["SELECT pg_sleep(0.5)"])
    with psycopg.connect(database_url, autocommit=True) as other:
        thread.start()
        state = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND query LIKE 'SELECT pg_sleep%%' AND state = 'active'"
        while other.execute(state, [pid]).fetchone() is None:
            assert thread.is_alive()
    assert own.lock.locked()
    thread.join()
    assert not own.lock.locked()


def test_a_connection_around_an_open_session_is_new_and_the_session_outlives_it(own: DeliveryConnection) -> None:
    pgconn: Any = own.pgconn
    first = DeliveryConnection.around(pgconn)
    first.row_factory = psycopg.rows.dict_row  # as a handler may
    first.add_notice_handler(print)
    assert first.execute("SELECT 1 AS one").fetchone() == {"one": 1}
    del first
    gc.collect()
    second = DeliveryConnection.around(pgconn)
    assert second.execute("SELECT 1 AS one").fetchone() == (1,)
    assert second.info.transaction_status == pq.TransactionStatus.INTRANS
