"""Inbox and broker on two Redis: each holds its own names, and an event needs only the inbox to be acknowledged."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from shared.registry import Cipher
from tests.conftest import SECRETS_KEY
from tests.ingress_process import SECRET, Valkey, own_valkey, serving, wait_for
from tests.moveris import completed
from tests.names import NAMES
from workers.store import tenants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from workers.store.connect import Connection

OF_THE_INBOX = {NAMES.inbox, NAMES.registry, NAMES.identity, NAMES.active_tenants, NAMES.live_ingresses}
OF_THE_BROKER = {NAMES.tasks_ended, NAMES.identity, NAMES.handler_means, NAMES.live_workers, NAMES.live_handlers}
QUEUES = ("ingest", "handlers", "housekeeping")


@pytest.fixture
def servers() -> Iterator[tuple[Valkey, Valkey]]:
    with own_valkey() as inbox, own_valkey() as broker:
        yield inbox, broker


@pytest.fixture
def start_workers(database_url: str, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Start the workers and beat with these settings; they must live until the test is over."""
    with ExitStack() as stack:
        running: dict[str, psutil.Popen] = {}

        def start(**settings: str) -> None:
            environ = os.environ | {"DATABASE_URL": database_url, "HANDLERS": "workers.handlers.example"} | settings
            celery = [sys.executable, "-m", "celery", "-A", "workers.app"]
            commands = {name: [*celery, "worker", "-Q", name, "-c", "1", "-n", f"{name}@%h"] for name in QUEUES}
            commands["beat"] = [*celery, "beat", "--schedule", str(tmp_path / "beat")]
            for name, command in commands.items():
                log = stack.enter_context((tmp_path / f"{name}.log").open("wb"))
                running[name] = psutil.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
                stack.callback(running[name].wait)
                stack.callback(os.killpg, running[name].pid, signal.SIGKILL)

        yield start
        for name, process in running.items():
            assert process.poll() is None, (tmp_path / f"{name}.log").read_text()[-3000:]


def names_in(valkey: Valkey) -> set[str]:
    with valkey.client() as client:
        return {key.decode() for key in client.scan_iter()}


def has_handled(connection: Connection, expected: int) -> bool:
    (row,) = connection.execute("SELECT count(*) AS n FROM deliveries_done WHERE state = 'succeeded'")
    return int(row["n"]) >= expected


@pytest.mark.timeout(120)
def test_an_event_goes_through_both_and_is_acknowledged_while_the_broker_is_away(
    servers: tuple[Valkey, Valkey], start_workers: Callable[..., None], connection: Connection
) -> None:
    inbox, broker = servers
    settings: dict[str, Any] = {"INBOX_URL": inbox.url, "BROKER_URL": broker.url}
    tenants.add_tenant(connection, "acme")
    tenants.add_endpoint(
        connection,
        tenant="acme",
        provider="moveris",
        scheme="moveris",
        label="first",
        ciphertext=Cipher([SECRETS_KEY]).encrypt(SECRET),
    )
    start_workers(**settings)
    with serving("", **settings) as ingress:
        assert ingress.post(completed("1")).status_code == 200
        wait_for(lambda: has_handled(connection, 1), seconds=60)
        wait_for(lambda: names_in(broker) >= OF_THE_BROKER, seconds=20)
        assert names_in(inbox) <= OF_THE_INBOX | {NAMES.overflow}
        assert not names_in(broker) & (OF_THE_INBOX - {NAMES.identity})
        broker.stop()
        assert ingress.post(completed("2")).status_code == 200
        assert ingress.post(completed("3")).status_code == 200
        broker.start()
        wait_for(lambda: has_handled(connection, 3), seconds=60)
