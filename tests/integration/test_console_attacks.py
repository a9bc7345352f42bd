"""What somebody tries who means no good, and what the console does when Postgres is not as it was."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pytest

from tests.conftest import fresh_database
from tests.console import Guest, Served, Things, announce_handler, furnish, guest, serve_console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.service import Server

ENDLESS: Final = 50_000_000
"""Bytes."""


@pytest.fixture(scope="module")
def served(postgres_server: Server, template_database: str, valkey_server: Server) -> Iterator[Served]:
    with fresh_database(postgres_server, template_database) as url, serve_console(url, valkey_server.url) as it:
        it.console.inbox.flushall()
        announce_handler(it.connection)
        yield it


@pytest.fixture(scope="module")
def acme(served: Served) -> Things:
    return furnish(served, "acme")


@pytest.fixture(scope="module")
def admin(served: Served) -> Guest:
    return guest(served, "ada", "admin")


# What is sent --------------------------------------------------------------------------------------------------------


def test_a_stranger_who_sends_headers_without_end_is_cut_off(served: Served) -> None:
    parts = urlsplit(served.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as client:
        client.sendall(f"GET / HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode())
        sent = 0
        with suppress(ConnectionError):
            while sent < ENDLESS:
                sent += client.send(b"x-%d: %b\r\n" % (sent, b"a" * 60_000))
    assert sent < ENDLESS


@pytest.mark.parametrize("path", ["/tenants/%00", "/deliveries?tenant=%00", "/audit?who=%00", "/sign-in?q=%00"])
def test_a_character_that_postgres_cannot_store_is_refused(admin: Guest, path: str) -> None:
    answer = admin.get(path)
    assert (answer.status_code, "cannot be stored" in answer.text) == (400, True)


@pytest.mark.parametrize("digits", ["0" * 25 + "9" * 30, "9" * 19, "9" * 5000])
def test_a_number_that_postgres_cannot_hold_is_that_of_nothing(admin: Guest, digits: str) -> None:
    for path in (f"/jobs/{digits}", f"/failures/{digits}", f"/do/job-pause?id={digits}"):
        assert admin.get(path).status_code == 404, path
    assert admin.get(f"/audit?before={digits}").status_code == 400


# Postgres ------------------------------------------------------------------------------------------------------------


def test_a_server_that_was_demoted_costs_one_change_and_the_next_one_is_made(
    served: Served, admin: Guest, acme: Things
) -> None:
    (row,) = served.connection.execute("SELECT current_database() AS name").fetchall()
    served.connection.execute(f'ALTER DATABASE "{row["name"]}" SET default_transaction_read_only = on')
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pipeline console'"
    served.connection.execute(cut)
    refused = admin.post("/do/tenant-pause", {"tenant": acme.tenant, "why": "moving"})
    served.connection.execute(f'ALTER DATABASE "{row["name"]}" RESET default_transaction_read_only')
    assert (refused.status_code, "standby or a read-only database" in refused.text) == (503, True)
    assert admin.post("/do/tenant-pause", {"tenant": acme.tenant, "why": "moving"}).status_code == 303


def test_where_it_is_not_even_known_who_asks_the_answer_is_a_page(served: Served, admin: Guest) -> None:
    served.connection.execute("ALTER TABLE console_sessions RENAME TO away")
    try:
        answers = [admin.get("/"), admin.post("/do/tenant-add", {"tenant": "more"})]
    finally:
        served.connection.execute("ALTER TABLE away RENAME TO console_sessions")
    assert [it.status_code for it in answers] == [503, 503]
    assert all("pipeline migrate" in it.text for it in answers)
