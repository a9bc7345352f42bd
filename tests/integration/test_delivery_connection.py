"""What handlers write through `delivery.connection`: with the outcome or not at all, whatever they do to it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.integration.outcomes import error_of, rows
from workers.store.connect import Connection, connect

if TYPE_CHECKING:
    from tests.integration.conftest import AddDeliveries, Run
    from workers.dispatch.delivery import Delivery


@pytest.fixture(autouse=True)
def _table(connection: Connection) -> None:
    connection.execute("CREATE TABLE effects (event_id uuid)")


def effects(connection: Connection) -> int:
    (row,) = connection.execute("SELECT count(*) AS number FROM effects")
    return int(row["number"])


def test_a_write_is_committed_with_the_outcome(connection: Connection, run: Run, add_deliveries: AddDeliveries) -> None:
    def write(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])

    assert run(add_deliveries(5), write).succeeded == 5
    assert rows(connection) == [("succeeded", 1, None)] * 5
    assert effects(connection) == 5


def test_a_write_is_rolled_back_with_a_failure(connection: Connection, run: Run, add_deliveries: AddDeliveries) -> None:
    def write_and_fail(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])
        raise ValueError("after the write")

    run(add_deliveries(1), write_and_fail)
    assert effects(connection) == 0


@pytest.mark.parametrize(
    ("misuse", "expected"),
    [
        ("commit", "leave commit to the worker"),
        ("rollback", "leave rollback to the worker"),
        ("with", "`with delivery.connection` would commit"),
        ("sql commit", "ended the transaction"),
        ("sql commit and begin", "ended the transaction"),
        ("swallow", "aborted"),
        ("close", "leave close to the worker"),
    ],
)
def test_a_misused_transaction_is_a_failure(
    connection: Connection, run: Run, add_deliveries: AddDeliveries, misuse: str, expected: str
) -> None:
    def handle(event: object, delivery: Delivery) -> None:
        own = delivery.connection
        own.execute("SELECT 1")
        if misuse == "commit":
            own.commit()
            own.execute("SELECT 1")
        elif misuse == "rollback":
            own.rollback()
        elif misuse == "sql commit":
            own.execute("COMMIT")
        elif misuse == "sql commit and begin":
            own.execute("COMMIT")
            own.execute("BEGIN")
            own.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])
        elif misuse == "close":
            own.close()
        elif misuse == "with":
            with own:
                own.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])
        else:
            with pytest.raises(Exception, match="division"):
                own.execute("SELECT 1/0")

    run(add_deliveries(1), handle)
    assert "TransactionMisused" in error_of(connection)
    assert expected in error_of(connection)
    assert effects(connection) == 0


def test_a_late_outcome_changes_nothing(
    connection: Connection, run: Run, add_deliveries: AddDeliveries, database_url: str
) -> None:
    def handle(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])
        with connect(database_url, name="somebody else") as other:
            other.execute("UPDATE deliveries SET fence = fence + 1")

    message = run(add_deliveries(1), handle)
    assert message.fenced == 1
    assert rows(connection) == [("running", 0, None)]
    assert effects(connection) == 0


def test_the_connection_is_clean_for_the_next_delivery(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    seen = []

    def handle(event: object, delivery: Delivery) -> None:
        seen.append(delivery.connection.execute("SHOW search_path").fetchone())
        delivery.connection.execute("SET search_path = 'elsewhere'")
        delivery.connection.execute("CREATE TEMP TABLE scratch (a int)")

    run(add_deliveries(2), handle)
    assert rows(connection) == [("succeeded", 1, None)] * 2
    assert seen[0] == seen[1]


@pytest.mark.parametrize("fails", [False, True])
def test_a_lock_that_a_handler_took_for_its_session_is_free_once_its_delivery_has_ended(
    connection: Connection, run: Run, add_deliveries: AddDeliveries, *, fails: bool
) -> None:
    def lock(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("SELECT pg_advisory_lock(7)")
        if fails:
            raise ValueError("after the lock was taken")

    run(add_deliveries(1), lock)
    (row,) = connection.execute("SELECT pg_try_advisory_lock(7) AS is_free")
    assert row["is_free"]


def test_statements_that_a_handler_prepares_by_name_are_gone_at_the_next_delivery(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    def handle(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("PREPARE mine AS SELECT 1")
        if delivery.event_id == ids[0] and delivery.attempt == 1:
            raise ValueError("after the statement was prepared")

    run(ids := add_deliveries(3), handle, schedule=(0.0,))
    run(ids[:1], handle)
    assert [state for state, _, _ in rows(connection)] == ["succeeded"] * 3


def test_a_handler_that_deallocates_everything_is_told_and_the_next_one_goes_through(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    first, second = add_deliveries(2)

    def handle(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])
        if delivery.event_id == first:
            delivery.connection.execute("DEALLOCATE ALL")

    run([first, second], handle)
    assert [state for state, _, _ in rows(connection)] == ["pending", "succeeded"]
    assert "deallocated" in (rows(connection)[0][2] or "")
    assert effects(connection) == 1


def test_a_connection_that_was_cut_while_it_was_idle_costs_no_attempt(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    def write(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])

    run(add_deliveries(1), write)
    connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'pipeline handler'"
        " AND datname = current_database()"
    )
    run(add_deliveries(1), write)
    assert rows(connection) == [("succeeded", 1, None)] * 2
    assert effects(connection) == 2


def test_the_connection_of_an_earlier_delivery_is_no_way_to_write(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    kept: list[Any] = []

    def write(event: object, delivery: Delivery) -> None:
        if not kept:
            kept.append(delivery.connection)
        kept[0].execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])

    run(add_deliveries(2), write)
    assert [state for state, _, _ in rows(connection)] == ["succeeded", "pending"]
    assert "earlier delivery" in (rows(connection)[1][2] or "")
    assert effects(connection) == 1


def test_a_handler_that_lets_psycopg_prepare_succeeds_and_the_next_finds_that_undone(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    seen = []

    def handle(event: object, delivery: Delivery) -> None:
        own = delivery.connection
        seen.append(own.prepare_threshold)
        own.prepare_threshold = 0
        with pytest.raises(psycopg.errors.DivisionByZero), own.transaction():
            own.execute("SELECT 1 / %s::int", [0])
        own.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])

    run(add_deliveries(2), handle)
    assert rows(connection) == [("succeeded", 1, None)] * 2
    assert seen == [None, None]


@pytest.mark.parametrize("ends", ["returns", "raises", "raises outside of its transaction"])
def test_what_a_handler_sets_on_the_connection_object_is_gone_at_the_next_delivery(
    connection: Connection, run: Run, add_deliveries: AddDeliveries, ends: str
) -> None:
    seen: list[tuple[Any, ...]] = []
    heard: list[psycopg.errors.Diagnostic] = []

    class Loud(psycopg.adapt.Loader):
        def load(self, data: Any) -> str:
            return f"loaded {bytes(data).decode()}"

    class LoudDumper(psycopg.adapt.Dumper):
        def dump(self, obj: object) -> bytes:
            return b"dumped"

    def handle(event: object, delivery: Delivery) -> None:
        own = delivery.connection
        heard.clear()
        own.execute("DO $$ BEGIN RAISE NOTICE 'heard'; END $$")
        values = own.execute("SELECT %s::text, pg_backend_pid()", ["quiet"]).fetchone()
        factories = (own.row_factory, own.cursor_factory, own.server_cursor_factory)
        modes = (own.prepare_threshold, own.prepared_max, own.autocommit, own.isolation_level, own.read_only)
        seen.append((values, factories, modes, [*heard]))
        own.adapters.register_loader("text", Loud)
        own.adapters.register_dumper(str, LoudDumper)
        own.add_notice_handler(heard.append)
        own.row_factory = psycopg.rows.dict_row
        own.cursor_factory = psycopg.ClientCursor
        own.server_cursor_factory = type("Other", (psycopg.ServerCursor,), {})
        assert own.execute("SELECT %s::text AS told", ["quiet"]).fetchone() == {"told": "loaded dumped"}
        own.prepare_threshold, own.prepared_max = 3, 7
        if ends != "returns":
            if ends != "raises":
                own.rollback()
                own.isolation_level, own.read_only = psycopg.IsolationLevel.SERIALIZABLE, True
                own.autocommit = True
            raise ValueError("after all of it")

    run(add_deliveries(3), handle)
    assert [state for state, _, _ in rows(connection)] == ["succeeded" if ends == "returns" else "pending"] * 3
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2], "one session, and every time as new"
    assert seen[0][0][0] == "quiet"


def test_statements_that_psycopg_prepared_are_gone_even_if_the_handler_hides_it(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    def handle(event: object, delivery: Delivery) -> None:
        own = delivery.connection
        own.prepare_threshold = 0
        own.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])
        own.prepare_threshold = None
        if delivery.attempt == 1 and delivery.event_id == ids[0]:
            raise ValueError("after the statement was prepared")

    run(ids := add_deliveries(3), handle, schedule=(0.0,))
    run(ids[:1], handle)
    assert [state for state, _, _ in rows(connection)] == ["succeeded"] * 3
    assert effects(connection) == 3


def test_other_threads_go_on_while_a_commit_takes_its_time(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    connection.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$"
    )
    connection.execute(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    over, ticks = threading.Event(), 0

    def tick() -> None:
        nonlocal ticks
        while not over.wait(0.01):
            ticks += 1

    ticker = threading.Thread(target=tick)

    def write(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])
        ticker.start()

    run(add_deliveries(1), write)
    over.set()
    ticker.join()
    assert rows(connection) == [("succeeded", 1, None)]
    assert ticks > 10


def test_what_a_deferred_constraint_refuses_is_a_failure_and_leaves_nothing(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    connection.execute("ALTER TABLE effects ADD UNIQUE (event_id) DEFERRABLE INITIALLY DEFERRED")

    def write_twice(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("INSERT INTO effects VALUES (%(id)s), (%(id)s)", {"id": delivery.event_id})

    run(add_deliveries(1), write_twice)
    assert "UniqueViolation" in error_of(connection)
    assert effects(connection) == 0


def test_the_outcome_is_recorded_whatever_path_and_temporary_tables_the_handler_has_made(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    def handle(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("CREATE SCHEMA IF NOT EXISTS elsewhere")
        delivery.connection.execute("CREATE TEMP TABLE deliveries (LIKE public.deliveries)")
        delivery.connection.execute("SET search_path = pg_temp, elsewhere")

    run(add_deliveries(2), handle)
    assert rows(connection) == [("succeeded", 1, None)] * 2


def test_many_deliveries_in_a_row_write_through_one_connection(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    def write(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])

    for _ in range(3):
        assert run(add_deliveries(20), write, budget=30.0).failures == []


@pytest.mark.parametrize("kept", ["connection", "cursor"])
def test_a_thread_of_an_earlier_delivery_cannot_write_into_the_next_ones_transaction(
    connection: Connection, run: Run, add_deliveries: AddDeliveries, kept: str
) -> None:
    old: list[Any] = []
    refused: list[str] = []

    def write_late() -> None:
        try:
            old[0].execute("INSERT INTO effects VALUES (gen_random_uuid())")
        except Exception as error:  # noqa: BLE001 - what a thread of a handler would see
            refused.append(str(error))

    def handle(event: object, delivery: Delivery) -> None:
        own = delivery.connection
        own.execute("SELECT 1")
        if not old:
            old.append(own if kept == "connection" else own.cursor())
            return
        thread = threading.Thread(target=write_late)
        thread.start()
        thread.join()
        own.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])

    run(add_deliveries(2), handle)
    assert [state for state, _, _ in rows(connection)] == ["succeeded"] * 2
    assert ["the connection of an earlier delivery" in text for text in refused] == [True]
    assert effects(connection) == 1


def test_a_thread_that_still_uses_the_connection_makes_the_attempt_fail_and_its_write_is_undone(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    ended: list[str] = []

    def write_slowly(own: Any, began: threading.Event) -> None:
        try:
            began.set()
            own.execute("INSERT INTO effects SELECT gen_random_uuid() FROM pg_sleep(2)")
        except Exception as error:  # noqa: BLE001 - what a thread of a handler would see
            ended.append(type(error).__name__)

    threads: list[threading.Thread] = []

    def handle(event: object, delivery: Delivery) -> None:
        own, began = delivery.connection, threading.Event()
        own.execute("SELECT 1")
        threads.append(threading.Thread(target=write_slowly, args=[own, began]))
        threads[0].start()
        began.wait(5)
        while not own.lock.locked():
            pass

    run(add_deliveries(1), handle)
    threads[0].join()
    assert "a thread of the handler still uses delivery.connection" in error_of(connection)
    assert len(ended) == 1
    assert effects(connection) == 0
