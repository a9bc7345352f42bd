"""One message run for real: outcomes, transactions, timeouts, fences."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from workers.errors import Permanent, RetryAfter
from workers.registration import Handler
from workers.running import MessageRun
from workers.store import deliveries
from workers.store.connect import Connection, Link, connect
from workers.store.session import HandlerSession

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterator

    from tests.integration.conftest import AddDeliveries
    from workers.delivery import Delivery

    Run = Callable[..., MessageRun]


@pytest.fixture
def run(connection: Connection, database_url: str) -> Iterator[Run]:
    """Return a function that queues deliveries and runs them as one message."""
    link, session = Link(database_url, name="test"), HandlerSession(database_url)

    def run_message(ids: list[uuid.UUID], function: Callable[..., Any], **policy: Any) -> MessageRun:
        connection.execute(
            "UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() + interval '1 min'"
            " WHERE event_id = ANY (%s) AND state = 'pending'",
            [ids],
        )
        budget = policy.pop("budget", 1.0)
        handler = Handler(name="acme.run", function=function, **policy)
        message = MessageRun(handler, link=link, session=session, message_seconds=budget)
        message.run(ids)
        return message

    yield run_message
    link.close()
    session.discard()


def rows(connection: Connection) -> list[tuple[str, int, str | None]]:
    query = "SELECT state, attempt, last_error FROM all_deliveries ORDER BY event_id"
    return [(row["state"], row["attempt"], row["last_error"]) for row in connection.execute(query)]


def error_of(connection: Connection) -> str:
    ((_, _, error),) = rows(connection)
    assert error is not None
    return error


def test_what_returns_has_succeeded(connection: Connection, run: Run, add_deliveries: AddDeliveries) -> None:
    seen = []
    message = run(ids := add_deliveries(3, body=b'{"a": 1}'), lambda event, delivery: seen.append((event, delivery)))
    assert rows(connection) == [("succeeded", 1, None)] * 3
    assert [delivery.event_id for _, delivery in seen] == ids
    assert seen[0][1].body == b'{"a": 1}'
    assert message.succeeded == 3


def test_a_long_message_is_run_in_order_and_what_is_gone_of_it_ends_visibly(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    seen: list[uuid.UUID] = []
    ids = add_deliveries(150)
    connection.execute("DELETE FROM events WHERE id = ANY (%s)", [[ids[3], ids[140]]])

    def handle(event: object, delivery: Delivery) -> None:
        seen.append(delivery.event_id)

    connection.execute("DELETE FROM deliveries WHERE event_id = %s", [ids[70]])  # somebody else has it
    run(ids, handle, budget=60.0)
    left = [event_id for event_id in ids if event_id not in {ids[3], ids[70], ids[140]}]
    assert seen == left
    states = [state for state, _, _ in rows(connection)]
    assert (states.count("succeeded"), states.count("dead"), len(states)) == (147, 2, 149)


def test_what_raises_is_tried_again_and_its_traceback_is_kept(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    def fail(event: object, delivery: Delivery) -> None:
        raise ValueError("no such user")

    message = run(add_deliveries(1), fail)
    assert rows(connection) == [("pending", 1, "ValueError: no such user")]
    ((attempt, trace),) = [tuple(r.values()) for r in connection.execute("SELECT attempt, traceback FROM attempts")]
    assert attempt == 1
    assert "in fail" in trace
    assert len(message.failures) == 1


def test_the_last_attempt_is_dead(connection: Connection, run: Run, add_deliveries: AddDeliveries) -> None:
    ids = add_deliveries(1)

    def fail(event: object, delivery: Delivery) -> None:
        raise ValueError(delivery.attempt)

    for _ in range(3):
        run(ids, fail, max_attempts=3, schedule=(0.0,))
    assert rows(connection) == [("dead", 3, "ValueError: 3")]


def test_permanent_is_dead_at_once_and_retry_after_waits_as_asked(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    first, second = add_deliveries(2)

    def fail(event: object, delivery: Delivery) -> None:
        if delivery.event_id == first:
            raise Permanent("gone")
        raise RetryAfter(3600, "busy")

    run([first, second], fail)
    assert rows(connection) == [("dead", 1, "Permanent: gone"), ("pending", 1, "RetryAfter: busy")]
    query = "SELECT extract(epoch FROM due_at - now())::float AS wait FROM deliveries WHERE event_id = %s"
    (row,) = connection.execute(query, [second])
    assert 3500 < row["wait"] <= 3600


def test_an_async_handler_runs(connection: Connection, run: Run, add_deliveries: AddDeliveries) -> None:
    async def handle(event: object, delivery: Delivery) -> None:
        await asyncio.sleep(0)

    run(add_deliveries(2), handle)
    assert rows(connection) == [("succeeded", 1, None)] * 2


@pytest.mark.parametrize("kind", ["sleeps", "swallows", "awaits", "queries"])
def test_a_handler_that_takes_too_long_is_interrupted(
    connection: Connection, run: Run, add_deliveries: AddDeliveries, kind: str
) -> None:
    never = threading.Event()

    def sleeps(event: object, delivery: Delivery) -> None:
        never.wait(60)

    def swallows(event: object, delivery: Delivery) -> None:
        try:
            never.wait(60)
        except Exception:  # noqa: BLE001 - what the test is about
            never.wait(60)

    async def awaits(event: object, delivery: Delivery) -> None:
        await asyncio.Event().wait()

    def queries(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("SET LOCAL statement_timeout = 0")
        delivery.connection.execute("SELECT pg_sleep(60)")

    function = {"sleeps": sleeps, "swallows": swallows, "awaits": awaits, "queries": queries}[kind]
    ids = add_deliveries(2)
    run(ids[:1], function, timeout=0.3)
    assert rows(connection)[0][:2] == ("pending", 1)
    assert "TimedOut" in (rows(connection)[0][2] or "")
    run(ids[1:], lambda event, delivery: delivery.connection.execute("SELECT 1"))
    assert rows(connection)[1] == ("succeeded", 1, None)


class TestTheConnection:
    @pytest.fixture(autouse=True)
    def _table(self, connection: Connection) -> None:
        connection.execute("CREATE TABLE effects (event_id uuid)")

    @staticmethod
    def effects(connection: Connection) -> int:
        (row,) = connection.execute("SELECT count(*) AS number FROM effects")
        return int(row["number"])

    def test_commits_with_the_outcome(self, connection: Connection, run: Run, add_deliveries: AddDeliveries) -> None:
        def write(event: object, delivery: Delivery) -> None:
            delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])

        run(add_deliveries(5), write)
        assert rows(connection) == [("succeeded", 1, None)] * 5
        assert self.effects(connection) == 5

    def test_rolls_back_with_a_failure(self, connection: Connection, run: Run, add_deliveries: AddDeliveries) -> None:
        def write_and_fail(event: object, delivery: Delivery) -> None:
            delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])
            raise ValueError("after the write")

        run(add_deliveries(1), write_and_fail)
        assert self.effects(connection) == 0

    @pytest.mark.parametrize(
        ("misuse", "expected"),
        [
            ("commit", "ended the transaction"),
            ("rollback", "ended the transaction"),
            ("sql commit", "ended the transaction"),
            ("swallow", "aborted"),
            ("close", "closed"),
        ],
    )
    def test_a_misused_transaction_is_a_failure(
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries, misuse: str, expected: str
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
            elif misuse == "close":
                own.close()
            else:
                with pytest.raises(Exception, match="division"):
                    own.execute("SELECT 1/0")

        run(add_deliveries(1), handle)
        assert "TransactionMisused" in error_of(connection)
        assert expected in error_of(connection)

    def test_a_late_outcome_changes_nothing(
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries, database_url: str
    ) -> None:
        def handle(event: object, delivery: Delivery) -> None:
            delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])
            with connect(database_url, name="somebody else") as other:
                other.execute("UPDATE deliveries SET fence = fence + 1")

        message = run(add_deliveries(1), handle)
        assert message.fenced == 1
        assert rows(connection) == [("running", 0, None)]
        assert self.effects(connection) == 0

    def test_is_clean_for_the_next_delivery(
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries
    ) -> None:
        seen = []

        def handle(event: object, delivery: Delivery) -> None:
            seen.append(delivery.connection.execute("SHOW search_path").fetchone())
            delivery.connection.execute("SET search_path = 'elsewhere'")
            delivery.connection.execute("CREATE TEMP TABLE scratch (a int)")
            delivery.connection.execute("SELECT pg_advisory_lock(7)")

        run(add_deliveries(2), handle)
        assert rows(connection) == [("succeeded", 1, None)] * 2
        assert seen[0] == seen[1]

    def test_statements_that_a_handler_prepares_by_name_are_gone_at_the_next_delivery(
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries
    ) -> None:
        def handle(event: object, delivery: Delivery) -> None:
            delivery.connection.execute("PREPARE mine AS SELECT 1")
            if delivery.event_id == ids[0] and delivery.attempt == 1:
                raise ValueError("after the statement was prepared")

        run(ids := add_deliveries(3), handle, schedule=(0.0,))
        run(ids[:1], handle)
        assert [state for state, _, _ in rows(connection)] == ["succeeded"] * 3

    def test_a_handler_that_deallocates_everything_is_told_and_the_next_one_goes_through(
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries
    ) -> None:
        first, second = add_deliveries(2)

        def handle(event: object, delivery: Delivery) -> None:
            delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])
            if delivery.event_id == first:
                delivery.connection.execute("DEALLOCATE ALL")

        run([first, second], handle)
        assert [state for state, _, _ in rows(connection)] == ["pending", "succeeded"]
        assert "deallocated" in (rows(connection)[0][2] or "")
        assert self.effects(connection) == 1

    def test_a_connection_that_was_cut_while_it_was_idle_costs_no_attempt(
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries
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
        assert self.effects(connection) == 2

    def test_the_connection_of_an_earlier_delivery_is_no_way_to_write(
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries
    ) -> None:
        kept: list[Any] = []

        def write(event: object, delivery: Delivery) -> None:
            if not kept:
                kept.append(delivery.connection)
            kept[0].execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])

        run(add_deliveries(2), write)
        assert [state for state, _, _ in rows(connection)] == ["succeeded", "pending"]
        assert "earlier delivery" in (rows(connection)[1][2] or "")
        assert self.effects(connection) == 1

    def test_a_handler_that_lets_psycopg_prepare_succeeds_and_the_next_finds_that_undone(
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries
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
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries, ends: str
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
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries
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
        assert self.effects(connection) == 3

    def test_other_threads_go_on_while_a_commit_takes_its_time(
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries
    ) -> None:
        connection.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$"
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
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries
    ) -> None:
        connection.execute("ALTER TABLE effects ADD UNIQUE (event_id) DEFERRABLE INITIALLY DEFERRED")

        def write_twice(event: object, delivery: Delivery) -> None:
            delivery.connection.execute("INSERT INTO effects VALUES (%(id)s), (%(id)s)", {"id": delivery.event_id})

        run(add_deliveries(1), write_twice)
        assert "UniqueViolation" in error_of(connection)
        assert self.effects(connection) == 0

    def test_the_outcome_is_recorded_whatever_path_and_temporary_tables_the_handler_has_made(
        self, connection: Connection, run: Run, add_deliveries: AddDeliveries
    ) -> None:
        def handle(event: object, delivery: Delivery) -> None:
            delivery.connection.execute("CREATE SCHEMA IF NOT EXISTS elsewhere")
            delivery.connection.execute("CREATE TEMP TABLE deliveries (LIKE public.deliveries)")
            delivery.connection.execute("SET search_path = pg_temp, elsewhere")

        run(add_deliveries(2), handle)
        assert rows(connection) == [("succeeded", 1, None)] * 2


def test_what_was_not_begun_goes_back_when_the_budget_is_over(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    ids = add_deliveries(5)

    def handle(event: object, delivery: Delivery) -> None:
        if delivery.event_id == ids[0]:
            time.sleep(0.3)

    run(ids, handle, budget=0.2)
    assert [state for state, _, _ in rows(connection)] == ["succeeded", "pending", "pending", "pending", "pending"]
    assert {row["attempt"] for row in connection.execute("SELECT attempt FROM deliveries")} == {0}


def test_a_slow_handler_does_not_hold_its_neighbours(
    connection: Connection, database_url: str, run: Run, add_deliveries: AddDeliveries
) -> None:
    ids = add_deliveries(3)
    neighbours: list[str] = []

    def handle(event: object, delivery: Delivery) -> None:
        if delivery.event_id == ids[1]:
            with connect(database_url, name="test") as own:
                deadline = time.monotonic() + 10
                while rows(own)[2][0] != "pending" and time.monotonic() < deadline:
                    time.sleep(0.01)
                neighbours.extend(state for state, _, _ in rows(own))

    run(ids, handle, budget=1)
    assert neighbours == ["succeeded", "running", "pending"]


def test_outcomes_survive_a_cut_connection(connection: Connection, run: Run, add_deliveries: AddDeliveries) -> None:
    def handle(event: object, delivery: Delivery) -> None:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )

    run(add_deliveries(2), handle)
    assert rows(connection) == [("succeeded", 1, None)] * 2


def test_a_process_killed_in_a_message_leaves_its_deliveries_claimed(
    connection: Connection, database_url: str, add_deliveries: AddDeliveries
) -> None:
    ids = add_deliveries(2)
    connection.execute("UPDATE deliveries SET state = 'queued', ready = false, lease_until = now()")
    child = os.fork()
    if child == 0:
        own = connect(database_url, name="child")
        deliveries.claim(own, "acme.run", ids, worker="child", lease=0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert {row["fence"] for row in connection.execute("SELECT fence FROM deliveries WHERE state = 'running'")} == {1}


def test_sys_exit_in_a_handler_is_its_failure(connection: Connection, run: Run, add_deliveries: AddDeliveries) -> None:
    run(add_deliveries(1), lambda event, delivery: sys.exit(3))
    assert error_of(connection) == "SystemExit: 3"


def test_an_event_that_is_gone_ends_visibly(connection: Connection, run: Run, add_deliveries: AddDeliveries) -> None:
    ids = add_deliveries(1)
    connection.execute("DELETE FROM events")
    run(ids, lambda event, delivery: None)
    assert rows(connection)[0][0] == "dead"
    assert "no longer stored" in error_of(connection)


def test_many_deliveries_in_a_row_write_through_one_connection(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    connection.execute("CREATE TABLE effects (event_id uuid)")

    def write(event: object, delivery: Delivery) -> None:
        delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])

    for _ in range(3):
        assert run(add_deliveries(20), write, budget=30.0).failures == []
