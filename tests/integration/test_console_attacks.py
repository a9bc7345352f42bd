"""What somebody tries who means no good, and what the console does when Postgres is not as it was."""

from __future__ import annotations

import html
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.conftest import fresh_database
from tests.console import Guest, Served, Things, announce_handler, furnish, guest, serve_console
from workers.housekeeping.jobs import work_on
from workers.store import audit, jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from deploy.local.service import Server
    from workers.store.jobs import Job

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
def globex(served: Served) -> Things:
    return furnish(served, "globex")


@pytest.fixture(scope="module")
def operator(served: Served, acme: Things) -> Guest:
    """An operator of acme."""
    return guest(served, "otto", "operator", of=(acme.tenant,))


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


# Whose things ---------------------------------------------------------------------------------------------------------


def newest_job(served: Served) -> Job:
    return jobs.list_jobs(served.connection, limit=1)[0]


def test_events_of_another_tenant_beside_ones_own_name_are_not_parsed_again(
    served: Served, operator: Guest, acme: Things, globex: Things
) -> None:
    values = {"tenant": acme.tenant, "events": f"{globex.rejected} {acme.rejected}"}
    operator.post("/do/reprocess", values)
    job = newest_job(served)
    while not newest_job(served).is_over:
        work_on(served.connection, job.id)
    assert (job.expected, job.filter.tenant) == (1, "acme")
    assert newest_job(served).changed == 1


def test_a_job_about_ids_is_that_of_their_tenant_who_may_end_it(served: Served, operator: Guest, acme: Things) -> None:
    assert operator.post("/do/retry", {"events": str(acme.dead), "rate": "1/h"}).status_code == 303
    job = newest_job(served)
    assert job.filter.tenant == "acme"
    assert operator.post("/do/job-cancel", {"id": job.id}).status_code == 303


def test_a_replay_takes_no_event_of_a_tenant_that_the_incident_is_not_of(
    served: Served, operator: Guest, acme: Things, globex: Things
) -> None:
    connection = served.connection
    connection.execute(
        "UPDATE events SET reject_reason = 'bad_json' WHERE id = ANY (%s)", [[acme.rejected, globex.rejected]]
    )
    connection.execute("UPDATE events SET state = 'rejected' WHERE id = ANY (%s)", [[acme.rejected, globex.rejected]])
    (row,) = connection.execute(
        "INSERT INTO incidents (kind, subject, cause, example, count, first_seen, last_seen)"
        " VALUES ('rejected', 'moveris', 'bad_json', 'x', 1, now(), now()) RETURNING id"
    ).fetchall()
    connection.execute(
        "INSERT INTO incident_tenants (incident, tenant, count, last_seen) VALUES (%s, 'acme', 1, now())", [row["id"]]
    )
    page = operator.get(f"/do/replay?id={row['id']}")
    assert "1 rejected events" in page.text
    assert operator.post("/do/replay", {"id": row["id"]}).status_code == 303
    job = newest_job(served)
    assert (job.filter.tenant, job.expected) == ("acme", 1)


def test_a_replay_that_cannot_be_submitted_is_not_in_the_audit(served: Served, admin: Guest, acme: Things) -> None:
    before = audit.list_entries(served.connection, limit=1)
    assert admin.post("/do/replay", {"id": acme.incident, "rate": "fast"}).status_code == 400
    assert audit.list_entries(served.connection, limit=1) == before


def test_no_ids_at_all_are_not_all_of_them(admin: Guest) -> None:
    answer = admin.post("/do/retry", {"events": " , ,"})
    assert (answer.status_code, "which ones?" in answer.text) == (400, True)


def changes_of(page: httpx.Response) -> dict[str, dict[str, str]]:
    """Return what is offered to be done with a list of events, and with which values."""
    addresses = [urlsplit(html.unescape(it)) for it in re.findall(r'href="(/do/[^"]*)"', page.text)]
    return {it.path.removeprefix("/do/"): dict(parse_qsl(it.query)) | {"back": ""} for it in addresses}


def test_a_list_of_events_offers_to_change_no_more_than_it_shows(admin: Guest, acme: Things) -> None:
    exact = changes_of(admin.get("/events", {"tenant": "acme", "type": "it", "since": "2h", "state": "accepted"}))
    assert set(exact) == {"retry", "resend", "cancel"}
    assert all(it == {"tenant": "acme", "type": "it", "since": "2h", "back": ""} for it in exact.values())

    narrower = changes_of(admin.get("/events", {"tenant": "acme", "outcome": "dead"}))
    assert narrower["retry"] == {"tenant": "acme", "back": ""}
    assert narrower["resend"] == narrower["cancel"] == {"events": str(acme.dead), "back": ""}

    by_subject = changes_of(admin.get("/events", {"tenant": "acme", "subject": "nobody"}))
    assert by_subject == {}
    rejected = changes_of(admin.get("/events", {"state": "rejected", "reason": "none", "tenant": "acme"}))
    assert rejected == {"reprocess": {"reason": "none", "tenant": "acme", "back": ""}}


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
