"""Inbox and broker on two Redis: each holds its own names, and an event needs only the inbox to be acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shared.registry import Cipher
from tests.conftest import SECRETS_KEY
from tests.ingress_process import SECRET, Valkey, own_valkey, serving, wait_for
from tests.moveris import completed
from tests.names import NAMES
from workers.store import tenants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workers.store.connect import Connection

OF_THE_INBOX = {NAMES.inbox, NAMES.registry, NAMES.identity, NAMES.active_tenants, NAMES.live_ingresses}
OF_THE_BROKER = {NAMES.tasks_ended, NAMES.identity, NAMES.handler_means, NAMES.live_workers, NAMES.live_handlers}


@pytest.fixture
def servers() -> Iterator[tuple[Valkey, Valkey]]:
    with own_valkey() as inbox, own_valkey() as broker:
        yield inbox, broker


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
