"""What pages of the console show: lists that stay put, a list of a provider, the dead deliveries of an incident."""

from __future__ import annotations

import html
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from deploy.console.pages.deliveries import COUNT_SECONDS
from tests.conftest import fresh_database
from tests.console import HANDLER, Guest, Served, announce_handler, furnish, guest, serve_console
from tests.ingress_process import wait_for
from workers.store.connect import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.service import Server
    from tests.console import Things


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
def ada(served: Served, acme: Things) -> Guest:
    return guest(served, "ada", "admin")


def events_of(page: str) -> list[str]:
    """Return the ids of the events on a page, in order."""
    return re.findall(r'href="/events/([0-9a-f-]{36})"', page)


def link(page: str, name: str) -> str:
    """Return where a link leads."""
    found = re.search(rf'href="([^"]+)"[^>]*>{name}</a>', page)
    assert found, name
    return html.unescape(found[1])


def test_a_page_of_events_stays_as_it_is_while_new_ones_come(served: Served, ada: Guest) -> None:
    for number in range(14):
        furnish(served, f"many-{number}")
    first = ada.get("/events").text
    second = ada.get(link(first, "Older")).text
    before = events_of(second)
    furnish(served, "late")
    assert events_of(ada.get(link(first, "Older")).text) == before
    assert events_of(ada.get(link(second, "Newer")).text) == events_of(first)
    assert len(set(events_of(first)) & set(before)) == 0


def test_an_incidents_page_leads_to_its_dead_deliveries_and_no_others(acme: Things, ada: Guest) -> None:
    page = ada.get(f"/failures/{acme.incident}").text
    listed = ada.get(link(page, "Its dead deliveries"))
    assert events_of(listed.text) == [str(acme.dead)]
    assert f"pipeline incidents show {acme.incident}" in listed.text


def test_a_replay_waits_for_a_busy_table_longer_than_it_counts(served: Served, acme: Things, ada: Guest) -> None:
    with connect(served.console.settings.database_url, name="busy") as busy, ThreadPoolExecutor(1) as pool:
        with busy.transaction():
            busy.execute("LOCK TABLE jobs IN EXCLUSIVE MODE")
            done = pool.submit(ada.post, "/do/replay", {"id": acme.incident, "why": "mended"})
            waiting = "SELECT count(*) AS n FROM pg_locks WHERE NOT granted AND relation = 'jobs'::regclass"
            wait_for(lambda: served.connection.execute(waiting).fetchone() == {"n": 1}, seconds=10)
            served.connection.execute("SELECT pg_sleep(%s)", [2 * COUNT_SECONDS])
        assert done.result().status_code == 303


def test_filters_survive_an_action(acme: Things, ada: Guest) -> None:
    here = f"/deliveries?state=dead&tenant=acme&handler={HANDLER}"
    form = link(ada.get(here).text, "Put back…")
    values = {name: value for name, (value,) in parse_qs(urlsplit(form).query).items()}
    assert (values["tenant"], values["handler"], values["back"]) == ("acme", HANDLER, here)
    confirmed = ada.get(form, {**values, "step": "confirm"})
    assert "Put 1 delivery back" in confirmed.text
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', confirmed.text))
    done = ada.post("/do/retry", {**{name: html.unescape(it) for name, it in hidden.items()}, "why": "mended"})
    job = urlsplit(done.headers["location"])
    assert re.fullmatch(r"/jobs/\d+", job.path)
    assert parse_qs(job.query) == {"back": [here]}


def test_a_pasted_list_is_compared_with_what_came(acme: Things, ada: Guest) -> None:
    answer = ada.post("/reconcile", {"tenant": "acme", "ids": "no user in acme\nnobody\nnobody", "since": "1h"})
    assert answer.status_code == 200
    assert "2 ids: " in answer.text
    assert "1 missing" in answer.text
    assert "1 lines repeat an id" in answer.text
    refused = ada.post("/reconcile", {"tenant": "acme", "ids": " \n ", "since": "1h"})
    assert (refused.status_code, "the list has no id" in refused.text) == (400, True)
    unknown = ada.post("/reconcile", {"tenant": "nobody", "ids": "x"})
    assert unknown.status_code == 404


def test_an_id_or_a_subject_is_found(acme: Things, ada: Guest) -> None:
    assert ada.get("/find", {"q": acme.dead}).headers["location"] == f"/events/{acme.dead}"
    found = ada.get("/find", {"q": "no user in acme"}).headers["location"]
    assert str(acme.succeeded) in events_of(ada.get(found).text)
