"""Who may see what in the console: every route for every role; and that what is posted comes from its own forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from deploy.console.app import HEADERS
from deploy.console.routes import RULES
from tests.console import HANDLER, Guest, Served, Things, announce_handler, furnish, guest, serve_console
from workers.store import audit
from workers.store.people import ROLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from workers.store.connect import Connection

PAUSE: Final = "/do/tenant-pause"


@pytest.fixture
def served(database_url: str, redis_url: str) -> Iterator[Served]:
    with serve_console(database_url, redis_url) as it:
        yield it


@pytest.fixture
def acme(connection: Connection, client: Redis) -> Things:
    announce_handler(connection)
    return furnish(connection, client, "acme")


@pytest.fixture
def admin(served: Served, connection: Connection) -> Guest:
    return guest(served, connection, "ada", "admin")


def path_of(path: str, it: Things) -> str:
    """Return a route's path with what a tenant has."""
    number = it.job if path.startswith("/jobs") else it.incident
    found = path.replace("{handler:path}", HANDLER).replace("{tenant}", it.tenant).replace("{provider}", "moveris")
    return found.replace("{event_id}", str(it.dead)).replace("{id}", str(number))


def test_every_route_answers_those_who_have_its_role_and_nobody_else(
    served: Served, connection: Connection, acme: Things
) -> None:
    guests = {
        "nobody": (-1, Guest(served=served)),
        "viewer": (0, guest(served, connection, "vera", "viewer")),
        "operator of acme": (1, guest(served, connection, "otto", "operator", of=("acme",))),
        "operator of all": (1, guest(served, connection, "olga", "operator")),
        "admin": (2, guest(served, connection, "ada", "admin")),
    }
    wrong = []
    for rule in RULES:
        needed = -1 if rule.role is None else ROLES.index(rule.role)
        for who, (role, somebody) in guests.items():
            if rule.path == "/sign-out" and role >= needed:
                continue  # it would end the session that the others need
            path = path_of(rule.path, acme)
            answer = somebody.get(path) if rule.method == "GET" else somebody.post(path, {})
            goes_on = rule.path == "/find" or (rule.path == "/sign-in" and role >= 0)
            if role >= needed and rule.method == "GET":
                expected = {303 if goes_on else 200}
            elif role >= needed and rule.path == "/sign-in":
                expected = {403}  # nobody has no name
            elif role >= needed:
                expected = {200, 303, 400, 403, 404}  # the form is empty; see `test_console_actions`
            else:
                expected = {303} if role < 0 else {403}
            if answer.status_code not in expected:
                wrong.append((rule.method, path, who, answer.status_code))
            if role < 0 <= needed and not answer.headers.get("location", "").startswith("/sign-in"):
                wrong.append((rule.method, path, who, "is not sent to sign in"))
    assert wrong == []


def test_what_nobody_may_is_done_to_nothing(served: Served, connection: Connection, acme: Things) -> None:
    before = len(audit.list_entries(connection, limit=1000))
    somebody = Guest(served=served)
    for rule in RULES:
        if rule.method == "POST":
            assert somebody.post(path_of(rule.path, acme), {"tenant": "acme", "why": "?"}).status_code in {303, 403}
    assert len(audit.list_entries(connection, limit=1000)) == before


def test_a_page_that_refreshes_itself_learns_that_its_session_is_over(served: Served, acme: Things) -> None:
    assert Guest(served=served).get("/", X_Live="1").status_code == 401


def test_after_signing_in_one_is_back_where_one_wanted_to_go(served: Served, acme: Things) -> None:
    answer = Guest(served=served).get("/events", {"tenant": "acme", "state": "rejected"})
    assert answer.headers["location"] == "/sign-in?back=%2Fevents%3Ftenant%3Dacme%26state%3Drejected"


@pytest.mark.parametrize("token", ["", "0" * 64, "é", "a session of somebody else"])
def test_a_form_without_the_token_of_the_session_changes_nothing(
    served: Served, connection: Connection, acme: Things, admin: Guest, token: str
) -> None:
    if "else" in token:
        token = guest(served, connection, "eve", "admin").token
    answer = admin.post(PAUSE, {"tenant": "acme", "token": token})
    assert answer.status_code == 403
    assert "this form is too old" in answer.text
    assert connection.execute("SELECT FROM tenants WHERE paused_at IS NOT NULL").fetchall() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
    ],
    ids=str,
)
def test_a_form_of_another_page_changes_nothing_though_it_has_the_token(
    connection: Connection, acme: Things, admin: Guest, headers: dict[str, str]
) -> None:
    answer = admin.post(PAUSE, {"tenant": "acme"}, **headers)
    assert answer.status_code == 403
    assert connection.execute("SELECT FROM tenants WHERE paused_at IS NOT NULL").fetchall() == []


def test_every_answer_forbids_scripts_of_others_frames_and_caches(
    served: Served, connection: Connection, acme: Things, admin: Guest
) -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    paths = [path_of(it.path, acme) for it in RULES if it.method == "GET"]
    for path in [*paths, "/nothing", "/failures/99999", "/events/nothing", "/static/nothing", "/livez"]:
        answer = admin.get(path)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, path
        if path != "/static/nothing":
            assert answer.headers["cache-control"] == "no-store", path
        assert "<script>" not in answer.text
        assert "style=" not in answer.text
    assert "max-age" in admin.get("/static/console.css").headers["cache-control"]
    assert admin.post(PAUSE, {"tenant": "acme"}, Origin="https://evil.example").headers["x-frame-options"] == "DENY"


def test_who_signs_out_is_a_stranger_again(served: Served, connection: Connection, admin: Guest) -> None:
    assert admin.post("/sign-out", {"token": "?"}).status_code == 403
    assert admin.get("/").status_code == 200
    answer = admin.post("/sign-out", {})
    assert answer.headers["location"] == "/sign-in"
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert admin.get("/").headers["location"] == "/sign-in"


def test_a_body_is_shown_to_operators_of_its_tenant_who_say_why_and_the_audit_keeps_it(
    served: Served, connection: Connection, acme: Things, client: Redis
) -> None:
    globex = furnish(connection, client, "globex")
    otto = guest(served, connection, "otto", "operator", of=("acme",))
    for word in ("body", "download"):
        assert otto.post(f"/events/{globex.dead}/{word}", {"why": "curious"}).status_code == 403
        assert otto.post(f"/events/{acme.dead}/{word}", {"why": " "}).status_code == 400
    assert audit.list_entries(connection, limit=9, what="body") == []
    assert "no user in acme" in otto.post(f"/events/{acme.dead}/body", {"why": "ticket 7"}).text
    downloaded = otto.post(f"/events/{acme.dead}/download", {"why": "ticket 8"})
    (row,) = connection.execute("SELECT body FROM events WHERE id = %s", [acme.dead]).fetchall()
    assert downloaded.content == row["body"]
    assert "attachment" in downloaded.headers["content-disposition"]
    entries = audit.list_entries(connection, limit=9, what="body")
    assert [(it.who, it.target, it.why) for it in entries] == [
        ("otto", str(acme.dead), "ticket 8"),
        ("otto", str(acme.dead), "ticket 7"),
    ]


def test_operators_of_a_tenant_search_the_bodies_of_that_tenant_only(
    served: Served, connection: Connection, acme: Things
) -> None:
    otto = guest(served, connection, "otto", "operator", of=("acme",))
    found = otto.get("/events", {"tenant": "acme", "field": "data.model", "text": "user in"})
    assert str(acme.dead) in found.text
    assert otto.get("/events", {"field": "data.model", "text": "user in"}).status_code == 403
    assert otto.get("/events", {"tenant": "globex", "field": "data.model", "text": "user in"}).status_code == 403
    viewer = guest(served, connection, "vera", "viewer")
    assert viewer.get("/events", {"tenant": "acme", "field": "data.model", "text": "user in"}).status_code == 403
    assert otto.get("/events", {"tenant": "acme", "field": "data.iban", "text": "DE"}).status_code == 400
