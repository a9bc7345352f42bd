"""One message run for real: outcomes, timeouts, budget, fences."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from tests.integration.outcomes import error_of, rows
from workers.errors import Permanent, RetryAfter
from workers.store import tenants
from workers.store.connect import Connection, connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import AddDeliveries, Run
    from workers.dispatch.delivery import Delivery


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


def test_a_success_keeps_what_failed_before(connection: Connection, run: Run, add_deliveries: AddDeliveries) -> None:
    def fail_once(event: object, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError("once")

    ids = add_deliveries(1)
    for _ in range(2):
        run(ids, fail_once, schedule=(0.0,))
    assert rows(connection) == [("succeeded", 2, "ValueError: once")]


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


class Client:
    """Bound to the event loop that first used it, as clients and pools are."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.held = asyncio.Event()

    async def call(self) -> None:
        await asyncio.wait_for(self.lock.acquire(), 5)
        asyncio.get_running_loop().call_soon(self.lock.release)
        async with self.lock:  # waits, and so binds the lock to this loop
            pass


def test_what_an_async_handler_keeps_at_module_level_works_in_every_delivery(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    client, loops = Client(), set()

    async def handle(event: object, delivery: Delivery) -> None:
        loops.add(asyncio.get_running_loop())
        await client.call()

    for _ in range(3):
        run(add_deliveries(4), handle)
    assert rows(connection) == [("succeeded", 1, None)] * 12
    assert len(loops) == 1


def test_a_plain_handler_that_asks_for_the_event_loop_gets_one_before_and_after_async_ones(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    async def wait(event: object, delivery: Delivery) -> None:
        await asyncio.sleep(0)

    def plain(event: object, delivery: Delivery) -> None:
        asyncio.get_event_loop().run_until_complete(asyncio.sleep(0))

    def runs_its_own(event: object, delivery: Delivery) -> None:
        asyncio.run(asyncio.sleep(0))

    for handle in (plain, wait, plain, runs_its_own, plain, wait):
        run(add_deliveries(2), handle)
    assert rows(connection) == [("succeeded", 1, None)] * 12


def test_what_an_async_handler_leaves_running_is_cancelled_before_its_outcome_counts(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    ended: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append("stays")

    async def handle(event: object, delivery: Delivery) -> None:
        tasks.append(asyncio.create_task(linger()))
        if not ended:
            tasks.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    run(add_deliveries(1), handle)
    assert sorted(ended) == ["cancelled", "stays"]
    run(add_deliveries(1), handle)  # on another loop: the first has a task that does not end
    assert ended.count("cancelled") == 2
    assert rows(connection) == [("succeeded", 1, None)] * 2


class Panic(BaseException):
    """What a native library raises."""


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot be printed")

    __repr__ = __str__


def _fail_in_a_folder_named(name: str) -> Callable[[], None]:
    scope: dict[str, Any] = {}
    exec(compile("import sys\ndef fail(): sys.exit('stop')", f"/srv/{name}/tool.py", "exec"), scope)  # noqa: S102
    fail: Callable[[], None] = scope["fail"]
    return fail


def _raise(error: BaseException) -> None:
    raise error


def _recurse() -> None:
    _recurse()


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (lambda: _raise(Panic("from Rust")), "Panic: from Rust"),
        (lambda: _raise(KeyboardInterrupt()), "KeyboardInterrupt: "),
        (lambda: _raise(GeneratorExit()), "GeneratorExit: "),
        (lambda: _raise(asyncio.CancelledError("x")), "CancelledError: x"),
        (lambda: _raise(MemoryError()), "MemoryError: "),
        (_recurse, "RecursionError: maximum recursion depth"),
        (
            lambda: _raise(UnprintableError()),
            "UnprintableError: its message cannot be printed",
        ),
        (
            lambda: _raise(BaseExceptionGroup("two", [Panic("a"), UnprintableError()])),
            "BaseExceptionGroup: two (2 sub-",
        ),
        (_fail_in_a_folder_named("celery"), "SystemExit: stop"),
        (_fail_in_a_folder_named("billiard"), "SystemExit: stop"),
        (lambda: _raise(ValueError("\0 and \ud800")), "ValueError: \N{SYMBOL FOR NULL} and \\ud800"),
    ],
    ids=lambda it: it.split(":")[0] if isinstance(it, str) else "",
)
@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
def test_whatever_a_handler_raises_is_an_outcome_with_a_traceback_at_once(  # noqa: PLR0917 - pytest's
    connection: Connection,
    run: Run,
    add_deliveries: AddDeliveries,
    fail: Callable[[], None],
    expected: str,
    is_async: bool,  # noqa: FBT001 - a parameter of the test
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "workers.dispatch.failure_log")  # pytest's report holds no lone surrogate

    async def handle_async(event: object, delivery: Delivery) -> None:
        await asyncio.sleep(0)
        fail()

    message = run(add_deliveries(1), handle_async if is_async else lambda event, delivery: fail())
    assert len(message.failures) == 1
    assert error_of(connection).startswith(expected)
    (row,) = connection.execute("SELECT traceback FROM attempts")
    assert "Traceback" in row["traceback"] or "Exception Group" in row["traceback"]


def test_each_failed_attempt_is_a_log_line_that_names_its_delivery(
    connection: Connection, run: Run, add_deliveries: AddDeliveries, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: object, delivery: Delivery) -> None:
        raise ValueError("no")

    (event_id,) = add_deliveries(1)
    run([event_id], fail, max_attempts=2, schedule=(0.0,))
    run([event_id], fail, max_attempts=2, schedule=(0.0,))
    records = [record for record in caplog.records if record.name == "workers.dispatch.failure_log"]
    assert [record.getMessage() for record in records] == [
        "attempt 1 of 2 failed: ValueError: no; tried again in 0 s",
        "attempt 2 of 2 failed: ValueError: no; the delivery is dead",
    ]
    assert [(vars(it)["code"], vars(it)["tenant"], vars(it)["event_id"], vars(it)["handler"]) for it in records] == [
        ("attempt_failed", "acme", event_id, "acme.run"),
        ("delivery_dead", "acme", event_id, "acme.run"),
    ]


def test_a_shutdown_of_the_pool_is_no_outcome(
    connection: Connection, run: Run, add_deliveries: AddDeliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.integration.conftest.is_terminating", lambda: True)
    with pytest.raises(SystemExit):
        run(add_deliveries(1), lambda event, delivery: sys.exit(-15))
    assert rows(connection) == [("running", 0, None)]


def test_the_idempotency_key_is_that_of_the_delivery_in_each_attempt(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    keys = []

    def fail(event: object, delivery: Delivery) -> None:
        keys.append(delivery.idempotency_key)
        raise ValueError("no")

    first, second = add_deliveries(2)
    run([first], fail, schedule=(0.0,))
    run([first], fail, schedule=(0.0,))
    run([second], fail)
    assert keys[0] == keys[1] != keys[2]


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
    script = (
        "import os, signal, sys; from uuid import UUID\n"
        "from workers.store import deliveries; from workers.store.connect import connect\n"
        "own = connect(sys.argv[1], name='child')\n"
        "deliveries.claim(own, 'acme.run', [UUID(it) for it in sys.argv[2:]], worker='child', lease=0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    argv = [sys.executable, "-c", script, database_url, *map(str, ids)]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
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


def test_a_start_function_that_raises_is_the_failure_of_the_attempt_at_hand_and_runs_again_with_the_next(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    handled, started = [], []

    def start() -> None:
        started.append("called")
        if len(started) == 1:
            raise ConnectionRefusedError("no such host")

    def handle(event: object, delivery: Delivery) -> None:
        handled.append(delivery.event_id)

    ids = add_deliveries(3)
    run(ids, handle, on_process_start=[start])
    assert rows(connection) == [
        ("pending", 1, "ConnectionRefusedError: no such host"),
        ("succeeded", 1, None),
        ("succeeded", 1, None),
    ]
    assert handled == ids[1:]
    assert len(started) == 2


def test_without_a_free_connection_for_handlers_work_waits_and_nobody_is_charged(
    connection: Connection, database_url: str, run: Run, add_deliveries: AddDeliveries
) -> None:
    def write(event: object, delivery: Delivery) -> None:
        try:
            delivery.connection.execute("SELECT 1")
        except Exception as error:
            raise ValueError("wrapped, as handlers do") from error

    ids, role = add_deliveries(3), f"few_{uuid.uuid4().hex}"
    connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'test' CONNECTION LIMIT 0")
    try:
        with pytest.raises(Exception, match="too many connections"):
            run(ids, write, session_url=re.sub(r"//[^@]*@", f"//{role}:test@", database_url))
    finally:
        connection.execute(f"DROP ROLE {role}")
    assert rows(connection) == [("pending", 0, None)] * 3
    run(ids, write)
    assert [state for state, _, _ in rows(connection)] == ["succeeded"] * 3


def test_a_server_that_became_read_only_is_left_and_the_next_attempt_goes_to_the_primary(
    connection: Connection, database_url: str, run: Run, add_deliveries: AddDeliveries
) -> None:
    """The session that is open stays read-only, as after a switchover; a new one is not."""

    def write(event: object, delivery: Delivery) -> None:
        backends.append(delivery.connection.info.backend_pid)
        delivery.connection.execute("CREATE TABLE IF NOT EXISTS effects (event_id uuid)")
        if not demoted:
            demoted.append(True)
            delivery.connection.execute("SET TRANSACTION READ ONLY")
            delivery.connection.execute("INSERT INTO effects VALUES (%s)", [delivery.event_id])

    demoted: list[bool] = []
    backends: list[int] = []
    (first,) = add_deliveries(1)
    run([first], write, schedule=(0.0,))
    assert "ReadOnlySqlTransaction" in error_of(connection)
    run([first], write)
    assert [state for state, _, _ in rows(connection)] == ["succeeded"]
    assert len(set(backends)) == 2


class Crm(BaseModel):
    crm_url: str


def test_a_handler_whose_settings_are_missing_is_not_called_and_runs_once_they_are_set(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    seen = []
    connection.execute("INSERT INTO tenants (name) VALUES ('acme')")
    ids = add_deliveries(1)
    given = {"settings": Crm, "schedule": (0.0,)}
    run(ids, lambda _, delivery: seen.append(delivery.settings.crm_url), **given)
    assert seen == []
    ((state, attempt, error),) = rows(connection)
    assert (state, attempt) == ("pending", 1)
    assert "`pipeline tenants set acme crm_url=…`" in (error or "")
    tenants.set_settings(connection, "acme", {"crm_url": "https://one"})
    run(ids, lambda _, delivery: seen.append(delivery.settings.crm_url), **given)
    assert seen == ["https://one"]


def test_a_handler_without_a_model_looks_settings_up_by_name(
    connection: Connection, run: Run, add_deliveries: AddDeliveries
) -> None:
    connection.execute("INSERT INTO tenants (name) VALUES ('acme')")
    run(add_deliveries(1), lambda _, delivery: delivery.settings["crm_url"])
    assert (rows(connection)[0][2] or "").startswith(
        "SettingsError: the setting crm_url is missing for the tenant 'acme'"
    )
