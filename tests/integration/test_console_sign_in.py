"""Signing in to the console: sessions, the header of a proxy, the open console, origins, tokens and limits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import argon2
import pytest
from starlette.requests import Request
from starlette.responses import Response

from deploy.cli.connections import person as system_user
from deploy.console import passwords
from deploy.console.settings import ConsoleSettings
from deploy.console.sign_in import LimitedError, SignIn, SignInError, Visitor, may_be_open
from shared.settings import SettingError, load
from workers.store import audit, people

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workers.store.connect import Connection

PASSWORD, OTHERS = "correct horse battery", "another horse battery"
QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=1024)
HASH = QUICK.hash(PASSWORD)
LOCAL, OTHER = "127.0.0.1", "203.0.113.7"
PROXY = {"CONSOLE_PROXY_HEADER": "X-Forwarded-User", "CONSOLE_PROXY_FROM": "10.0.0.5,10.1.0.0/16"}


def settings(**variables: str) -> ConsoleSettings:
    given = {"REDIS_URL": "redis://localhost:6379/0", "DATABASE_URL": "postgresql://localhost/db"}
    return load(ConsoleSettings, given | variables)


def ask(
    method: str = "GET",
    *headers: tuple[str, str],
    peer: str | None = OTHER,
    host: str = "hooks.example.com",
    cookies: Mapping[str, str] | None = None,
) -> Request:
    """Return a request as the server gets it."""
    sent = [("host", host), *headers]
    if cookies:
        sent.append(("cookie", "; ".join(f"{name}={value}" for name, value in cookies.items())))
    scope = {
        "type": "http",
        "method": method,
        "path": "/",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in sent],
        "client": (peer, 50000) if peer else None,
    }
    return Request(scope)


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits and answers do not depend on how long a hash takes."""
    monkeypatch.setattr(passwords, "_HASHER", QUICK)
    monkeypatch.setattr(passwords, "_NOBODYS", QUICK.hash(OTHERS))


@pytest.fixture
def alice(connection: Connection) -> str:
    people.add_person(connection, "alice", role="operator", password_hash=HASH)
    return "alice"


@pytest.fixture
def sign_in() -> SignIn:
    return SignIn(settings(CONSOLE_HOST="192.0.2.1"), is_open=False)


@pytest.fixture
def proxied() -> SignIn:
    return SignIn(settings(**PROXY), is_open=False)


@pytest.fixture
def neighbour() -> SignIn:
    return SignIn(settings(), is_open=True)


def with_session(sign_in: SignIn, token: str) -> dict[str, str]:
    return {sign_in.cookie_name: token}


def attempts(sign_in: SignIn, connection: Connection, *names: str, **request: Any) -> list[str]:
    """Try to sign in with a wrong password; return how each attempt ended."""
    ends = []
    for name in names:
        with pytest.raises(SignInError) as caught:
            sign_in.sign_in(connection, ask("POST", **request), name, "wrong horse battery")
        ends.append("limited" if isinstance(caught.value, LimitedError) else "wrong")
        expected = "wait 15 min" if ends[-1] == "limited" else "the name or the password is wrong"
        assert expected in str(caught.value)
    return ends


def test_who_signs_in_is_known_by_the_cookie_until_they_sign_out(
    sign_in: SignIn, connection: Connection, alice: str
) -> None:
    assert sign_in.identify(connection, ask()) is None
    token = sign_in.sign_in(connection, ask("POST"), " alice ", PASSWORD)
    visitor = sign_in.identify(connection, ask(cookies=with_session(sign_in, token)))
    assert visitor
    assert (visitor.person.name, visitor.session, visitor.is_new) == (alice, token, False)
    sign_in.sign_out(connection, visitor)
    assert sign_in.identify(connection, ask(cookies=with_session(sign_in, token))) is None


def test_a_session_that_the_browser_had_before_ends_with_the_next_one(
    sign_in: SignIn, connection: Connection, alice: str
) -> None:
    first = sign_in.sign_in(connection, ask("POST"), alice, PASSWORD)
    second = sign_in.sign_in(connection, ask("POST", cookies=with_session(sign_in, first)), alice, PASSWORD)
    assert first != second
    assert sign_in.identify(connection, ask(cookies=with_session(sign_in, first))) is None


@pytest.mark.parametrize("name", ["alice", "nobody", "proxied", "disabled", "", "a\x00b", "\ud800", "' OR 1=1 --"])
def test_wrong_names_and_wrong_passwords_get_one_answer(
    sign_in: SignIn, connection: Connection, alice: str, name: str
) -> None:
    people.add_person(connection, "proxied", role="admin")
    people.add_person(connection, "disabled", role="admin", password_hash=HASH)
    people.disable_person(connection, "disabled")
    password = "wrong horse battery" if name == alice else PASSWORD
    with pytest.raises(SignInError, match=r"^the name or the password is wrong$"):
        sign_in.sign_in(connection, ask("POST"), name, password)


def test_a_hash_of_former_parameters_is_renewed_at_the_next_sign_in(sign_in: SignIn, connection: Connection) -> None:
    former = argon2.PasswordHasher(time_cost=2, memory_cost=1024).hash(PASSWORD)
    people.add_person(connection, "alice", role="viewer", password_hash=former)
    sign_in.sign_in(connection, ask("POST"), "alice", PASSWORD)
    assert people.find_hash(connection, "alice") != former
    (latest, _) = audit.list_entries(connection, limit=5)
    assert (latest.who, latest.after) == ("alice", {"password": "anew"})
    sign_in.sign_in(connection, ask("POST"), "alice", PASSWORD)


@pytest.mark.parametrize("name", ["alice", "nobody"])
def test_after_five_failures_a_name_waits_whether_or_not_there_is_one(
    sign_in: SignIn, connection: Connection, alice: str, name: str
) -> None:
    ends = [end for n in range(7) for end in attempts(sign_in, connection, name, peer=f"203.0.113.{n}")]
    assert ends == ["wrong"] * 5 + ["limited"] * 2
    with pytest.raises(LimitedError, match="wait 15 min"):
        sign_in.sign_in(connection, ask("POST"), name, PASSWORD)


def test_after_twenty_failures_an_address_waits_and_others_do_not(
    sign_in: SignIn, connection: Connection, alice: str
) -> None:
    assert attempts(sign_in, connection, *map(str, range(22))) == ["wrong"] * 20 + ["limited"] * 2
    with pytest.raises(LimitedError):
        sign_in.sign_in(connection, ask("POST"), alice, PASSWORD)
    sign_in.sign_in(connection, ask("POST", peer="203.0.113.8"), alice, PASSWORD)


def test_addresses_of_one_network_of_version_6_are_one(sign_in: SignIn, connection: Connection) -> None:
    ends = [end for n in range(21) for end in attempts(sign_in, connection, str(n), peer=f"2001:db8::{n:x}")]
    assert ends == ["wrong"] * 20 + ["limited"]
    assert attempts(sign_in, connection, "x", peer="2001:db8:0:1::1") == ["wrong"]


def test_a_right_password_after_the_wait_works_and_clears_the_failures_of_the_name(
    sign_in: SignIn, connection: Connection, alice: str
) -> None:
    attempts(sign_in, connection, *[alice] * 6)
    connection.execute("UPDATE console_attempts SET at = at - interval '15 min'")
    assert attempts(sign_in, connection, *[alice] * 4) == ["wrong"] * 4
    sign_in.sign_in(connection, ask("POST"), alice, PASSWORD)
    assert attempts(sign_in, connection, *[alice] * 5) == ["wrong"] * 5


def test_strangers_do_not_lock_out_a_browser_that_has_signed_in(
    sign_in: SignIn, connection: Connection, alice: str
) -> None:
    sign_in.sign_in(connection, ask("POST"), alice, PASSWORD)
    cookie = sign_in.browser_cookie(connection, alice)
    browser = {cookie["key"]: cookie["value"]}
    assert attempts(sign_in, connection, *[alice] * 6)[-1] == "limited"
    assert sign_in.sign_in(connection, ask("POST", cookies=browser), alice, PASSWORD)
    # it has a limit of its own
    attempts(sign_in, connection, *[alice] * 5)
    ends = attempts(sign_in, connection, *[alice] * 6, cookies=browser)
    assert ends == ["wrong"] * 5 + ["limited"]


@pytest.mark.parametrize("value", ["", ".", "x.y", "x." + "0" * 64])
def test_a_browser_that_has_not_signed_in_as_this_person_waits_with_the_others(
    sign_in: SignIn, connection: Connection, alice: str, value: str
) -> None:
    people.add_person(connection, "bob", role="viewer", password_hash=QUICK.hash(OTHERS))
    bobs = sign_in.browser_cookie(connection, "bob")
    attempts(sign_in, connection, *[alice] * 5)
    for cookies in ({bobs["key"]: value}, {bobs["key"]: bobs["value"]}):
        assert attempts(sign_in, connection, alice, "bob", cookies=cookies)[0] == "limited"


def test_another_password_ends_what_a_browser_has_proved(sign_in: SignIn, connection: Connection, alice: str) -> None:
    cookie = sign_in.browser_cookie(connection, alice)
    people.set_password(connection, alice, QUICK.hash(OTHERS))
    attempts(sign_in, connection, *[alice] * 5)
    assert attempts(sign_in, connection, alice, cookies={cookie["key"]: cookie["value"]}) == ["limited"]


def test_a_browser_of_nobody_proves_nothing(sign_in: SignIn, connection: Connection) -> None:
    cookie = sign_in.browser_cookie(connection, "nobody")
    assert (cookie["value"], cookie["max_age"]) == ("", 0)


def test_a_failure_is_logged_with_its_address_and_neither_name_nor_password(
    sign_in: SignIn, connection: Connection, alice: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        attempts(sign_in, connection, *[alice] * 6)
    codes = [getattr(it, "code", None) for it in caplog.records]
    assert codes == ["sign_in_failed"] * 5 + ["sign_in_limited"]
    assert all(getattr(it, "address", None) == OTHER for it in caplog.records)
    assert alice not in caplog.text
    assert "horse" not in caplog.text


def test_cookies_are_of_this_host_alone_secure_and_out_of_reach_of_scripts(sign_in: SignIn) -> None:
    response = Response()
    response.set_cookie(**sign_in.cookie("token"))
    (header,) = response.headers.getlist("set-cookie")
    assert header == "__Host-pipeline_session=token; HttpOnly; Max-Age=43200; Path=/; SameSite=lax; Secure"
    response = Response()
    response.set_cookie(**sign_in.cookie(""))
    assert "Max-Age=0" in response.headers["set-cookie"]


@pytest.mark.parametrize(
    ("variables", "is_secure"),
    [
        ({}, False),
        ({"CONSOLE_URL": "http://localhost:8080"}, False),
        ({"CONSOLE_HOST": "::1"}, False),
        ({"CONSOLE_HOST": "192.0.2.1"}, True),
        ({"CONSOLE_URL": "https://hooks.example.com"}, True),
        (PROXY, True),
    ],
)
def test_cookies_are_secure_beyond_the_loopback(
    connection: Connection, alice: str, variables: dict[str, str], *, is_secure: bool
) -> None:
    sign_in = SignIn(settings(**variables), is_open=False)
    for cookie in (sign_in.cookie("token"), sign_in.browser_cookie(connection, alice)):
        assert cookie["secure"] is is_secure
        assert cookie["key"].startswith("__Host-") is is_secure


def named(sign_in: SignIn, connection: Connection, *names: str, peer: str | None, token: str = "") -> Visitor | None:
    headers = [("X-Forwarded-User", name) for name in names]
    return sign_in.identify(connection, ask("GET", *headers, peer=peer, cookies=with_session(sign_in, token)))


@pytest.mark.parametrize("peer", ["10.0.0.5", "10.1.2.3", "::ffff:10.0.0.5"])
def test_a_header_from_the_proxy_names_who_somebody_is(
    proxied: SignIn, connection: Connection, alice: str, peer: str
) -> None:
    first = named(proxied, connection, alice, peer=peer)
    assert first
    assert (first.person.name, first.person.role, first.is_new) == (alice, "operator", True)
    second = named(proxied, connection, alice, peer=peer, token=first.session)
    assert second
    assert (second.session, second.csrf_token, second.is_new) == (first.session, first.csrf_token, False)


@pytest.mark.parametrize("peer", [OTHER, LOCAL, "10.0.0.6", "not an address", None])
def test_a_header_from_elsewhere_says_nothing(
    proxied: SignIn, connection: Connection, alice: str, peer: str | None
) -> None:
    assert named(proxied, connection, alice, peer=peer) is None
    assert connection.execute("SELECT FROM console_sessions").fetchall() == []


def test_without_the_setting_no_header_is_believed(sign_in: SignIn, connection: Connection, alice: str) -> None:
    assert named(sign_in, connection, alice, peer="10.0.0.5") is None


@pytest.mark.parametrize("names", [("nobody",), ("",), ("alice", "alice"), ("alice,bob",), ("disabled",), ("a\xff",)])
def test_a_header_that_names_nobody_or_twice_lets_nobody_in(
    proxied: SignIn, connection: Connection, alice: str, names: tuple[str, ...]
) -> None:
    people.add_person(connection, "disabled", role="admin")
    people.disable_person(connection, "disabled")
    session = people.start_session(connection, alice, seconds=60)
    assert named(proxied, connection, *names, peer="10.0.0.5", token=session) is None


def test_a_session_of_the_proxy_is_nothing_without_its_header_or_beside_another_name(
    proxied: SignIn, connection: Connection, alice: str
) -> None:
    people.add_person(connection, "bob", role="viewer")
    first = named(proxied, connection, alice, peer="10.0.0.5")
    assert first
    assert named(proxied, connection, peer="10.0.0.5", token=first.session) is None
    assert named(proxied, connection, peer=OTHER, token=first.session) is None
    other = named(proxied, connection, "bob", peer="10.0.0.5", token=first.session)
    assert other
    assert (other.person.name, other.is_new) == ("bob", True)
    assert other.session != first.session


def test_a_session_by_password_does_not_stand_in_for_the_header(
    proxied: SignIn, connection: Connection, alice: str
) -> None:
    token = proxied.sign_in(connection, ask("POST"), alice, PASSWORD)
    visitor = named(proxied, connection, peer=OTHER, token=token)
    assert visitor
    assert visitor.person.name == alice
    beside = named(proxied, connection, alice, peer="10.0.0.5", token=token)
    assert beside
    assert beside.session != token


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST"])
def test_the_open_console_knows_everybody_at_its_machine_as_its_administrator(
    neighbour: SignIn, connection: Connection, host: str
) -> None:
    visitor = neighbour.identify(connection, ask(peer=LOCAL, host=host))
    assert visitor
    assert (visitor.person.name, visitor.person.role, visitor.session) == (system_user(), "admin", "")
    assert neighbour.check_token(visitor, visitor.csrf_token)
    assert not SignIn(settings(), is_open=True).check_token(visitor, "")
    neighbour.sign_out(connection, visitor)


@pytest.mark.parametrize(
    ("peer", "host", "headers"),
    [
        (LOCAL, "attacker.example:8080", ()),
        (LOCAL, "localhost.attacker.example", ()),
        (LOCAL, "", ()),
        (OTHER, "localhost:8080", ()),
        (None, "localhost:8080", ()),
        (LOCAL, "localhost:8080", (("X-Forwarded-For", OTHER),)),
        (LOCAL, "localhost:8080", (("Forwarded", "for=203.0.113.7"),)),
        (LOCAL, "localhost:8080", (("Host", "attacker.example"),)),
    ],
)
def test_the_open_console_knows_nobody_under_another_name_or_from_elsewhere(
    neighbour: SignIn, connection: Connection, peer: str | None, host: str, headers: tuple[tuple[str, str], ...]
) -> None:
    assert neighbour.identify(connection, ask("GET", *headers, peer=peer, host=host)) is None


def test_the_open_console_closes_as_soon_as_it_has_a_user(neighbour: SignIn, connection: Connection) -> None:
    people.add_person(connection, "alice", role="viewer", password_hash=HASH)
    request = ask("POST", peer=LOCAL, host="localhost:8080")
    assert neighbour.identify(connection, request) is None
    token = neighbour.sign_in(connection, request, "alice", PASSWORD)
    cookies = with_session(neighbour, token)
    visitor = neighbour.identify(connection, ask(peer=LOCAL, host="localhost:8080", cookies=cookies))
    assert visitor
    assert visitor.person.role == "viewer"


@pytest.mark.parametrize(
    "variables",
    [{"CONSOLE_HOST": "192.0.2.1"}, {"CONSOLE_HOST": "::"}, {"CONSOLE_URL": "https://hooks.example.com"}, PROXY],
)
def test_beyond_the_loopback_it_does_not_start_without_users(variables: dict[str, str]) -> None:
    with pytest.raises(SettingError, match="pipeline console add-user"):
        may_be_open(settings(**variables), 0)
    assert may_be_open(settings(**variables), 1) is False


def test_on_the_loopback_it_is_open_until_it_has_users() -> None:
    assert may_be_open(settings(), 0) is True
    assert may_be_open(settings(), 1) is False


SITE = "sec-fetch-site"


@pytest.mark.parametrize(
    ("variables", "host", "headers", "is_own"),
    [
        ({}, "localhost:8080", {SITE: "same-origin"}, True),
        ({}, "localhost:8080", {SITE: "none"}, True),
        ({}, "localhost:8080", {SITE: "same-site"}, False),
        ({}, "localhost:8080", {SITE: "cross-site"}, False),
        ({}, "localhost:8080", {SITE: "cross-site", "origin": "http://localhost:8080"}, False),
        ({}, "localhost:8080", {"origin": "http://localhost:8080"}, True),
        ({}, "localhost:8080", {"origin": "http://localhost:8081"}, False),
        ({}, "localhost:8080", {"origin": "null"}, False),
        ({}, "localhost:8080", {}, False),
        ({"CONSOLE_HOST": "192.0.2.1"}, "hooks.lan:8080", {"origin": "https://hooks.lan:8080"}, True),
        ({"CONSOLE_HOST": "192.0.2.1"}, "hooks.lan:8080", {"origin": "https://evil.example"}, False),
        ({"CONSOLE_HOST": "192.0.2.1"}, "", {SITE: "same-origin"}, False),
        ({"CONSOLE_URL": "https://Hooks.lan:443"}, "hooks.lan", {"origin": "https://hooks.lan"}, True),
        ({"CONSOLE_URL": "https://hooks.lan"}, "hooks.lan", {"origin": "http://hooks.lan"}, False),
        ({"CONSOLE_URL": "https://hooks.lan"}, "hooks.lan", {"origin": "https://hooks.lan.evil.example"}, False),
        ({"CONSOLE_URL": "https://hooks.lan"}, "evil.example", {SITE: "same-origin"}, False),
        ({"CONSOLE_URL": "https://hooks.lan"}, "localhost:8080", {"origin": "http://localhost:8080"}, True),
        ({"CONSOLE_URL": "https://hooks.lan"}, "localhost:8080", {"origin": "https://hooks.lan"}, True),
    ],
)
def test_a_change_comes_from_a_page_of_the_console(
    variables: dict[str, str], host: str, headers: dict[str, str], *, is_own: bool
) -> None:
    sign_in = SignIn(settings(**variables), is_open=False)
    assert sign_in.check_origin(ask("POST", *headers.items(), host=host)) is is_own


def test_a_link_from_elsewhere_may_be_followed_but_not_under_a_foreign_name() -> None:
    elsewhere = (SITE, "cross-site")
    closed = SignIn(settings(CONSOLE_URL="https://hooks.lan"), is_open=False)
    assert closed.check_origin(ask("GET", elsewhere, host="hooks.lan"))
    assert not closed.check_origin(ask("GET", elsewhere, host="evil.example"))
    neighbour = SignIn(settings(), is_open=True)
    assert neighbour.check_origin(ask("GET", elsewhere, host="localhost:8080"))
    assert not neighbour.check_origin(ask("POST", (SITE, "same-origin"), host="evil.example:8080"))


def test_a_form_is_of_one_session(sign_in: SignIn, connection: Connection, alice: str) -> None:
    tokens = [sign_in.sign_in(connection, ask("POST"), alice, PASSWORD) for _ in range(2)]
    first, second = (sign_in.identify(connection, ask(cookies=with_session(sign_in, it))) for it in tokens)
    assert first
    assert second
    assert sign_in.check_token(first, first.csrf_token)
    for wrong in (second.csrf_token, "", first.session, "\ud800"):
        assert not sign_in.check_token(first, wrong)
    assert first.session not in first.csrf_token
