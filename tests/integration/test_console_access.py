"""Who may see what in the console: every route for every role; and that what is posted comes from its own forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from deploy.console.app import HEADERS
from deploy.console.routes import RULES
from tests.conftest import fresh_database
from tests.console import HANDLER, Guest, Served, Things, announce_handler, furnish, guest, serve_console
from tests.roles import parted_roles
from workers.store import audit, people
from workers.store.people import ROLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.service import Server

PAUSE: Final = "/do/tenant-pause"


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
def viewer(served: Served) -> Guest:
    return guest(served, "vera", "viewer")


@pytest.fixture(scope="module")
def operator(served: Served, acme: Things) -> Guest:
    """An operator of acme."""
    return guest(served, "otto", "operator", of=("acme",))


@pytest.fixture(scope="module")
def admin(served: Served) -> Guest:
    return guest(served, "ada", "admin")


def path_of(path: str, it: Things) -> str:
    """Return a route's path with what a tenant has."""
    number = it.job if path.startswith("/jobs") else it.incident
    found = path.replace("{handler:path}", HANDLER).replace("{tenant}", it.tenant).replace("{provider}", "moveris")
    return found.replace("{event_id}", str(it.dead)).replace("{id}", str(number))


def is_paused(served: Served) -> bool:
    return bool(served.connection.execute("SELECT FROM tenants WHERE paused_at IS NOT NULL").fetchall())


def test_every_page_and_the_changes_work_with_the_role_of_the_application(
    postgres_server: Server, valkey_server: Server
) -> None:
    with (
        parted_roles(postgres_server.url, schema="") as roles,
        serve_console(roles.application, valkey_server.url) as its,
    ):
        its.console.inbox.flushall()  # it may be that of the database of another test
        announce_handler(its.connection)
        things, somebody = furnish(its, "acme"), guest(its, "ada", "admin")
        paths = [path_of(rule.path, things) for rule in RULES if rule.method == "GET"]
        assert {
            path: answer.text for path in paths if (answer := somebody.get(path)).status_code not in {200, 303}
        } == {}
        changes: dict[str, dict[str, object]] = {
            "user-add": {"name": "neo", "role": "viewer", "password": "another horse battery"},
            "tenant-limit": {"tenant": "acme", "rate": "10/s"},
            "tenant-pause": {"tenant": "acme"},
            "retry": {"tenant": "acme", "all": "yes", "step": "confirm"},
        }
        for action, values in changes.items():
            answer = somebody.post(f"/do/{action}", values | {"back": "/", "why": "a test"})
            assert answer.status_code == 303, (action, answer.text)


def test_every_route_answers_those_who_have_its_role_and_nobody_else(
    served: Served, acme: Things, viewer: Guest, operator: Guest, admin: Guest
) -> None:
    guests = {
        "nobody": (-1, Guest(served=served)),
        "viewer": (0, viewer),
        "operator of acme": (1, operator),
        "operator of all": (1, guest(served, "olga", "operator")),
        "admin": (2, admin),
    }
    wrong: list[tuple[str, str, str, object]] = []
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


def test_what_strangers_post_changes_nothing(served: Served, acme: Things) -> None:
    before = len(audit.list_entries(served.connection, limit=1000))
    for rule in RULES:
        if rule.method == "POST" and rule.role is not None:
            answer = Guest(served=served).post(path_of(rule.path, acme), {"tenant": "acme", "why": "?"})
            assert answer.headers["location"].startswith("/sign-in")
    assert len(audit.list_entries(served.connection, limit=1000)) == before


def test_a_page_that_refreshes_itself_learns_that_its_session_is_over(served: Served) -> None:
    assert Guest(served=served).get("/", X_Live="1").status_code == 401


def test_after_signing_in_one_is_back_where_one_wanted_to_go(served: Served) -> None:
    answer = Guest(served=served).get("/events", {"tenant": "acme", "state": "rejected"})
    assert answer.headers["location"] == "/sign-in?back=%2Fevents%3Ftenant%3Dacme%26state%3Drejected"


@pytest.mark.parametrize("token", ["", "0" * 64, "é", "of somebody else"])
def test_a_form_without_the_token_of_the_session_changes_nothing(
    served: Served, acme: Things, admin: Guest, viewer: Guest, token: str
) -> None:
    if token == "of somebody else":
        token = viewer.token
    answer = admin.post(PAUSE, {"tenant": "acme", "token": token})
    assert answer.status_code == 403
    assert "this form is too old" in answer.text
    assert not is_paused(served)


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
    served: Served, acme: Things, admin: Guest, headers: dict[str, str]
) -> None:
    answer = admin.post(PAUSE, {"tenant": "acme"}, **headers)
    assert answer.status_code == 403
    assert not is_paused(served)


def test_every_answer_forbids_scripts_of_others_frames_and_caches(served: Served, acme: Things, admin: Guest) -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
    paths = [path_of(it.path, acme) for it in RULES if it.method == "GET"]
    for path in [*paths, "/nothing", "/failures/99999", "/events/nothing", "/livez"]:
        answer = admin.get(path)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, path
        assert answer.headers["cache-control"] == "no-store", path
        for forbidden in ("<script>", "<style", " style=", " onclick=", "javascript:"):
            assert forbidden not in answer.text, path
    refused = admin.post(PAUSE, {"tenant": "acme"}, Origin="https://evil.example")
    assert {name: refused.headers.get(name) for name in HEADERS} == HEADERS
    assert "max-age" in admin.get("/static/console.css").headers["cache-control"]


def test_who_signs_out_is_a_stranger_again(served: Served) -> None:
    somebody = guest(served, "sue", "admin")
    assert somebody.post("/sign-out", {"token": "?"}).status_code == 403
    assert somebody.get("/").status_code == 200
    answer = somebody.post("/sign-out", {})
    assert answer.headers["location"] == "/sign-in"
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert somebody.get("/").headers["location"] == "/sign-in"


def test_a_role_that_is_taken_away_is_gone_with_the_next_page(served: Served) -> None:
    somebody = guest(served, "sam", "admin")
    assert somebody.get("/users").status_code == 200
    people.change_person(served.connection, "sam", role="viewer")
    assert somebody.get("/users").status_code == 403
    assert somebody.post("/do/tenant-add", {"tenant": "initech"}).status_code == 403


def test_a_body_is_shown_to_operators_of_its_tenant_who_say_why_and_the_audit_keeps_it(
    served: Served, acme: Things, globex: Things, operator: Guest
) -> None:
    for word in ("body", "download"):
        assert operator.post(f"/events/{globex.dead}/{word}", {"why": "curious"}).status_code == 403
        assert operator.post(f"/events/{acme.dead}/{word}", {"why": " "}).status_code == 400
    assert audit.list_entries(served.connection, limit=9, what="body") == []
    assert "no user in acme" in operator.post(f"/events/{acme.dead}/body", {"why": "ticket 7"}).text
    downloaded = operator.post(f"/events/{acme.dead}/download", {"why": "ticket 8"})
    (row,) = served.connection.execute("SELECT body FROM events WHERE id = %s", [acme.dead]).fetchall()
    assert downloaded.content == row["body"]
    assert "attachment" in downloaded.headers["content-disposition"]
    entries = audit.list_entries(served.connection, limit=9, what="body")
    assert [(it.who, it.target, it.why) for it in entries] == [
        ("otto", str(acme.dead), "ticket 8"),
        ("otto", str(acme.dead), "ticket 7"),
    ]


def test_operators_of_a_tenant_search_the_bodies_of_that_tenant_only(
    served: Served, acme: Things, globex: Things, viewer: Guest, operator: Guest
) -> None:
    text = {"field": "data.model", "text": "user in"}
    found = operator.get("/events", text | {"tenant": "acme"})
    assert str(acme.dead) in found.text
    assert str(globex.dead) not in found.text
    assert operator.get("/events", text).status_code == 403
    assert operator.get("/events", text | {"tenant": "globex"}).status_code == 403
    assert viewer.get("/events", text | {"tenant": "acme"}).status_code == 403
    assert operator.get("/events", {"tenant": "acme", "field": "data.iban", "text": "DE"}).status_code == 400


def test_no_page_shows_a_secret_or_a_signature(served: Served, acme: Things, admin: Guest) -> None:
    for rule in RULES:
        if rule.method == "GET":
            page = admin.get(path_of(rule.path, acme)).text
            assert "It&#39;s a Secret" not in page
            assert "0123456789abcdef" not in page
