"""What somebody tries who means no good, and what the console does when Postgres is not as it was."""

from __future__ import annotations

import html
import re
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.conftest import fresh_database
from tests.console import (
    HANDLER,
    PASSWORD,
    Guest,
    Served,
    Things,
    announce_handler,
    command_of,
    furnish,
    guest,
    serve_console,
    token_of,
)
from workers.housekeeping.jobs import work_on
from workers.store import audit, catalogue, jobs, pauses, people

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


@pytest.mark.parametrize("path", ["/tenants/", "/tenants/acme/", "/sign-in/"])
def test_no_address_is_completed_by_the_host_that_somebody_names(admin: Guest, path: str) -> None:
    answer = admin.get(path)
    assert (answer.status_code, "location" in answer.headers) == (404, False)


def test_a_page_left_open_does_not_keep_its_session(served: Served) -> None:
    somebody = guest(served, "zoe", "viewer")
    served.connection.execute("UPDATE console_sessions SET seen_at = now() - interval '50 min' WHERE name = 'zoe'")
    assert somebody.get("/doctor", X_Live="1").status_code == 200
    served.connection.execute("UPDATE console_sessions SET seen_at = seen_at - interval '11 min' WHERE name = 'zoe'")
    assert somebody.get("/doctor", X_Live="1").status_code == 401


def test_what_is_kept_for_ever_has_a_bound(served: Served, admin: Guest, acme: Things) -> None:
    before = audit.list_entries(served.connection, limit=1)
    for path, values in {
        "/do/tenant-pause": {"tenant": acme.tenant, "why": "w" * 501},
        f"/events/{acme.dead}/body": {"why": "w" * 501},
        "/do/tenant-set": {"tenant": acme.tenant, "key": "crm", "value": "v" * 10_001},
        "/do/endpoint-change": {"tenant": acme.tenant, "provider": "moveris", "description": "#" * 100_001},
        "/do/handler-limit": {"handler": "nobody.has", "tenant": acme.tenant, "in_flight": "3"},
    }.items():
        assert admin.post(path, values).status_code in {400, 404}, path
    assert audit.list_entries(served.connection, limit=1) == before


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
    assert "1 rejected event" in page.text
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


def test_a_confirmation_that_lies_for_hours_takes_the_events_of_then(admin: Guest) -> None:
    page = admin.get("/do/retry", {"tenant": "acme", "until": "10m", "step": "confirm"})
    (until,) = re.findall(r'name="until" value="([^"]*)"', page.text)
    assert abs(datetime.now(UTC) - timedelta(minutes=10) - datetime.fromisoformat(until)) < timedelta(seconds=30)
    assert admin.post("/do/retry", {"tenant": "acme", "until": until}).status_code == 303


def test_a_handler_that_is_removed_has_its_deliveries_cancelled_by_a_job(
    served: Served, admin: Guest, acme: Things
) -> None:
    announce_handler(served.connection, "crm.gone")
    served.connection.execute(
        "INSERT INTO deliveries (event_id, handler, tenant) VALUES (%s, 'crm.gone', 'acme')", [acme.pending]
    )
    assert "1 open deliver" in admin.get("/do/handler-remove", {"handler": "crm.gone"}).text
    answer = admin.post("/do/handler-remove", {"handler": "crm.gone"})
    job = newest_job(served)
    assert (answer.headers["location"], job.kind, job.filter.handler) == (f"/jobs/{job.id}", "cancel", "crm.gone")
    work_on(served.connection, job.id)
    assert not catalogue.count_open(served.connection, "crm.gone")


def test_a_handler_gets_no_name_that_no_worker_could_announce(admin: Guest) -> None:
    for name in ("<b>", "no-dot", "a.b c", "x" * 9000):
        answer = admin.post("/do/handler-rename", {"handler": "crm.sync", "new_name": name})
        assert (answer.status_code, "no handler can be named" in answer.text) == (400, True)


def test_what_was_typed_since_a_form_said_what_it_does_is_said_before_it_is_done(
    served: Served, admin: Guest, acme: Things
) -> None:
    form = {"handler": HANDLER, "tenant": "", "until": ""}
    seen = re.findall(r'name="seen" value="([^"]*)"', admin.get("/do/handler-pause", {"handler": HANDLER}).text)
    typed = form | {"tenant": acme.tenant, "seen": html.unescape(seen[0])}
    again = admin.post("/do/handler-pause", typed)
    assert (again.status_code, "for the tenant acme." in again.text) == (200, True)
    assert "Not done yet" in again.text
    assert not pauses.list_pauses(served.connection, handler=HANDLER)
    (seen_again,) = re.findall(r'name="seen" value="([^"]*)"', again.text)
    assert admin.post("/do/handler-pause", typed | {"seen": html.unescape(seen_again)}).status_code == 303
    assert [it.tenant for it in pauses.list_pauses(served.connection, handler=HANDLER)] == [acme.tenant]
    admin.post("/do/handler-resume", {"handler": HANDLER, "tenant": acme.tenant})


def test_an_operator_of_a_tenant_finds_it_in_forms_that_are_of_all_tenants_without_one(operator: Guest) -> None:
    for path, values in {
        "/do/handler-pause": {"handler": HANDLER},
        "/do/handler-limit": {"handler": HANDLER},
        "/do/retry": {"handler": HANDLER, "step": "confirm"},
    }.items():
        page = operator.get(path, values)
        assert "name a tenant whose operator you are" in page.text
        assert 'name="tenant" type="text" value="acme"' in page.text
    assert operator.get("/do/tenant-pause", {"tenant": "globex"}).status_code == 403


# Users ---------------------------------------------------------------------------------------------------------------


def test_nobody_takes_their_own_role_away(served: Served, admin: Guest) -> None:
    values = {"name": "ada", "role": "viewer"}
    for answer in (admin.get("/do/user-change", values), admin.post("/do/user-change", values)):
        assert "nobody takes their own role away" in answer.text
    assert admin.post("/do/user-password", {"name": "ada", "no_password": "yes"}).status_code == 400
    assert people.find_person(served.connection, "ada") == people.Person(name="ada", role="admin", tenants=None)


def test_the_first_user_of_the_open_console_can_let_others_in(
    postgres_server: Server, template_database: str, valkey_server: Server
) -> None:
    with (
        fresh_database(postgres_server, template_database) as url,
        serve_console(url, valkey_server.url) as served,
    ):
        stranger = Guest(served=served, token=token_of(Guest(served=served).get("/do/user-add")))
        assert Guest(served=served, token="0" * 64).post("/do/tenant-add", {"tenant": "acme"}).status_code == 403
        for more in ({"role": "operator", "password": PASSWORD}, {"role": "admin", "no_password": "yes"}):
            answer = stranger.post("/do/user-add", {"name": "ada", **more})
            assert (answer.status_code, "has to be an admin with a password" in answer.text) == (400, True)
        values = {"name": "ada", "role": "admin", "password": PASSWORD}
        assert stranger.post("/do/user-add", values).status_code == 303
        assert stranger.get("/users").headers["location"] == "/sign-in?back=%2Fusers"


# Commands ------------------------------------------------------------------------------------------------------------


def test_a_link_cannot_make_an_option_of_what_a_command_takes_as_a_name(admin: Guest) -> None:
    page = admin.get("/do/resend", {"handler": "--all", "tenant": "$(reboot)", "step": "confirm"})
    assert command_of(page) == "pipeline deliveries resend --tenant '$(reboot)' -- --all"


def test_tenants_of_a_user_are_quoted(admin: Guest) -> None:
    page = admin.get("/do/user-add", {"name": "eve", "role": "operator", "tenants": "a;reboot b"})
    line = command_of(page)
    assert line == "pipeline console add-user eve --role operator --tenant 'a;reboot' --tenant b"


def test_what_was_done_is_said_once_in_the_letters_that_were_typed(served: Served, admin: Guest, acme: Things) -> None:
    values = {"tenant": acme.tenant, "key": "crm", "value": "x", "back": "/tenants/acme"}
    answer = admin.post("/do/tenant-set", values | {"key": "crm_ü\n;a=b"})
    assert answer.status_code == 400
    answer = admin.post("/do/handler-resume", {"handler": "crm; ü\x01\r\nSet-Cookie: a=b", "tenant": "acme"})
    said = SimpleCookie(answer.headers["set-cookie"])["pipeline_said"]
    assert (said["httponly"], said["path"], "a" in SimpleCookie(answer.headers["set-cookie"])) == (True, "/", False)
    page = served.client.get(
        "/doctor", headers={"Cookie": f"pipeline_session={admin.session}; {said.key}={said.value}"}
    )
    assert "crm; ü\\u0001\\u000d\nSet-Cookie: a=b was not paused for the tenant acme" in page.text
    assert 'pipeline_said=""' in page.headers["set-cookie"]


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
    assert (refused.status_code, "the log of the console says why" in refused.text) == (503, True)
    assert admin.post("/do/tenant-pause", {"tenant": acme.tenant, "why": "moving"}).status_code == 303


def test_where_it_is_not_even_known_who_asks_the_answer_is_a_page(served: Served, admin: Guest) -> None:
    served.connection.execute("ALTER TABLE console_sessions RENAME TO away")
    try:
        answers = [admin.get("/"), admin.post("/do/tenant-add", {"tenant": "more"})]
    finally:
        served.connection.execute("ALTER TABLE away RENAME TO console_sessions")
    assert [it.status_code for it in answers] == [503, 503]
    assert all("pipeline migrate" in it.text for it in answers)
