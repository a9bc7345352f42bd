"""People of the console: what their roles let them do, their sessions, and what the audit says of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from workers.store import audit, people, sign_in_attempts, tenants
from workers.store.connect import connect
from workers.store.people import ROLES, SESSIONS_EACH, Person, Role
from workers.store.refusals import (
    BadNameError,
    BadRoleError,
    PersonExistsError,
    UnknownPersonError,
    UnknownTenantError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.store.connect import Connection

HOUR = 3600


@pytest.fixture
def alice(connection: Connection) -> str:
    people.add_person(connection, "alice", role="viewer", password_hash="$argon2id$one")
    return "alice"


def read(connection: Connection, token: str, *, idle_seconds: float = HOUR) -> str | None:
    found = people.read_session(connection, token, idle_seconds=idle_seconds)
    return found.name if found else None


def age(connection: Connection, seconds: float) -> None:
    """Let all sessions have been begun and used that much earlier."""
    connection.execute(
        "UPDATE console_sessions SET created_at = created_at - i, seen_at = seen_at - i, expires_at = expires_at - i"
        " FROM make_interval(secs => %s) AS i",
        [seconds],
    )


@pytest.mark.parametrize(
    ("role", "bound_to", "may_change", "may_change_others", "may_change_all", "may_administer"),
    [
        ("viewer", None, False, False, False, False),
        ("operator", ("acme",), True, False, False, False),
        ("operator", None, True, True, True, False),
        ("admin", None, True, True, True, True),
    ],
)
def test_an_operator_of_some_tenants_changes_what_is_theirs_and_everybody_looks_at_all(
    role: Role,
    bound_to: tuple[str, ...] | None,
    *,
    may_change: bool,
    may_change_others: bool,
    may_change_all: bool,
    may_administer: bool,
) -> None:
    person = Person(name="alice", role=role, tenants=bound_to)
    assert person.may("operator", "acme") is may_change
    assert person.may("operator", "other") is may_change_others
    assert person.may("operator") is may_change_all
    assert person.may("admin") is may_administer
    assert person.may("admin", "acme") is may_administer
    assert person.may("viewer")
    assert person.may("viewer", "other")
    assert [person.has_role(it) for it in ROLES] == [True, role != "viewer", role == "admin"]


def test_a_person_is_added_changed_and_removed(connection: Connection, alice: str) -> None:
    tenants.add_tenant(connection, "acme")
    tenants.add_tenant(connection, "beta")
    people.change_person(connection, alice, role="operator", tenants=["beta", "acme", "acme"])
    assert people.find_person(connection, alice) == Person(name=alice, role="operator", tenants=("acme", "beta"))
    people.add_person(connection, "bob@example.com", role="admin")
    first, second = people.list_people(connection)
    assert (first.name, first.tenants, first.has_password, first.seen_at) == (alice, ["acme", "beta"], True, None)
    assert (second.name, second.tenants, second.has_password) == ("bob@example.com", None, False)
    people.remove_person(connection, alice)
    assert people.find_person(connection, alice) is None
    assert people.count_people(connection) == 1


@pytest.mark.parametrize("name", ["", "-x", "a b", "a\n", "é", "x" * 101, "<b>"])
def test_a_name_that_no_list_could_show_is_refused(connection: Connection, name: str) -> None:
    with pytest.raises(BadNameError):
        people.add_person(connection, name, role="viewer")


def test_what_contradicts_itself_is_refused(connection: Connection, alice: str) -> None:
    tenants.add_tenant(connection, "acme")
    with pytest.raises(PersonExistsError):
        people.add_person(connection, alice, role="viewer")
    for role in ("viewer", "admin"):
        with pytest.raises(BadRoleError, match="of operators only"):
            people.change_person(connection, alice, role=role, tenants=["acme"])
    with pytest.raises(BadRoleError, match="may change nothing"):
        people.change_person(connection, alice, role="operator", tenants=[])
    with pytest.raises(BadRoleError, match="is no role"):
        people.change_person(connection, alice, role="root")  # type: ignore[arg-type]
    with pytest.raises(UnknownTenantError, match="'acm'"):
        people.change_person(connection, alice, role="operator", tenants=["acme", "acm"])
    assert people.find_person(connection, alice) == Person(name=alice, role="viewer", tenants=None)


def test_every_change_of_somebody_who_is_not_there_says_so(connection: Connection) -> None:
    changes: list[Callable[[], object]] = [
        lambda: people.change_person(connection, "bob", role="viewer"),
        lambda: people.set_password(connection, "bob", "x"),
        lambda: people.disable_person(connection, "bob"),
        lambda: people.enable_person(connection, "bob"),
        lambda: people.remove_person(connection, "bob"),
        lambda: people.start_session(connection, "bob", seconds=HOUR),
    ]
    for change in changes:
        with pytest.raises(UnknownPersonError, match="no user 'bob'"):
            change()


def test_the_audit_has_every_change_of_a_person_and_never_the_hash(connection: Connection, alice: str) -> None:
    audit.act_as(connection, "root", "she left")
    people.set_password(connection, alice, "$argon2id$two")
    people.set_password(connection, alice, None)
    people.change_person(connection, alice, role="admin")
    people.disable_person(connection, alice)
    people.remove_person(connection, alice)
    entries = audit.list_entries(connection, limit=20, target=alice)
    assert [(it.what, it.who) for it in entries] == [
        ("console_users removed", "root"),
        *[("console_users changed", "root")] * 4,
        ("console_users added", "postgres"),
    ]
    assert entries[4].after == entries[3].after == {"password": "anew"}
    assert (entries[2].before, entries[2].after, entries[2].why) == ({"role": "viewer"}, {"role": "admin"}, "she left")
    assert "argon2" not in repr(entries)


def test_a_hash_is_renewed_in_the_name_of_its_person_and_only_if_it_is_the_same_still(
    connection: Connection, alice: str
) -> None:
    audit.act_as(connection, "root", "something else")
    people.renew_hash(connection, alice, before="$argon2id$other", after="$argon2id$two")
    assert people.find_hash(connection, alice) == "$argon2id$one"
    people.renew_hash(connection, alice, before="$argon2id$one", after="$argon2id$two")
    assert people.find_hash(connection, alice) == "$argon2id$two"
    people.change_person(connection, alice, role="admin")
    after, renewed, *_ = audit.list_entries(connection, limit=10, target=alice)
    assert (renewed.who, renewed.after) == (alice, {"password": "anew"})
    assert (after.who, after.why) == ("root", "something else")


def test_a_token_is_whose_session_it_is_and_the_table_does_not_have_it(connection: Connection, alice: str) -> None:
    token = people.start_session(connection, alice, seconds=HOUR)
    assert read(connection, token) == alice
    (row,) = connection.execute("SELECT console_sessions::text AS text FROM console_sessions").fetchall()
    assert token not in row["text"]
    for wrong in ("", token[:-1], token + "A", "\ud800", "x" * 100_000):
        assert read(connection, wrong) is None


def test_a_session_ends_when_it_is_not_used_and_use_keeps_it(connection: Connection, alice: str) -> None:
    token = people.start_session(connection, alice, seconds=12 * HOUR)
    for _ in range(3):
        age(connection, HOUR - 60)
        assert read(connection, token) == alice
    age(connection, HOUR)
    assert read(connection, token) is None
    assert connection.execute("SELECT FROM console_sessions").fetchall() == []


def test_a_page_that_refreshes_itself_keeps_no_session(connection: Connection, alice: str) -> None:
    token = people.start_session(connection, alice, seconds=12 * HOUR)
    for _ in range(2):
        age(connection, HOUR * 2 / 3)
        found = people.read_session(connection, token, idle_seconds=HOUR, is_use=False)
    assert found is None


def test_a_session_ends_after_its_time_however_much_it_is_used(connection: Connection, alice: str) -> None:
    token = people.start_session(connection, alice, seconds=2 * HOUR)
    age(connection, HOUR - 60)
    assert read(connection, token) == alice
    age(connection, HOUR + 60)
    assert read(connection, token) is None


def test_use_is_written_at_most_once_a_minute(connection: Connection, alice: str) -> None:
    token = people.start_session(connection, alice, seconds=HOUR)

    def writes(passed: float) -> bool:
        age(connection, passed)
        (before,) = connection.execute("SELECT xmin::text FROM console_sessions").fetchall()
        read(connection, token)
        return connection.execute("SELECT xmin::text FROM console_sessions").fetchall() != [before]

    assert [writes(50), writes(20), writes(50), writes(5), writes(6)] == [False, True, False, False, True]


def test_a_short_idle_time_is_kept_by_use_within_it(connection: Connection, alice: str) -> None:
    token = people.start_session(connection, alice, seconds=HOUR)
    for _ in range(10):
        age(connection, 40)
        assert read(connection, token, idle_seconds=60) == alice


def test_a_role_that_was_changed_holds_in_the_session_that_was_begun_before(connection: Connection, alice: str) -> None:
    token = people.start_session(connection, alice, seconds=HOUR)
    people.change_person(connection, alice, role="admin")
    found = people.read_session(connection, token, idle_seconds=HOUR)
    assert found
    assert found.role == "admin"


@pytest.mark.parametrize("end", ["set_password", "disable_person", "remove_person", "end_sessions"])
def test_no_session_outlives_a_new_password_a_disabling_a_removal_and_an_order(
    connection: Connection, alice: str, end: str
) -> None:
    people.add_person(connection, "bob", role="viewer")
    tokens = [people.start_session(connection, alice, seconds=HOUR) for _ in range(2)]
    others = people.start_session(connection, "bob", seconds=HOUR)
    getattr(people, end)(connection, alice, *(["$argon2id$two"] if end == "set_password" else []))
    assert [read(connection, it) for it in (*tokens, others)] == [None, None, "bob"]


def test_signing_out_ends_one_session(connection: Connection, alice: str) -> None:
    first, second = (people.start_session(connection, alice, seconds=HOUR) for _ in range(2))
    people.end_session(connection, first)
    assert [read(connection, it) for it in (first, second)] == [None, alice]


def test_somebody_who_is_disabled_is_not_found_until_they_are_enabled(connection: Connection, alice: str) -> None:
    people.disable_person(connection, alice)
    assert people.find_person(connection, alice) is None
    assert people.find_hash(connection, alice) is None
    assert people.count_people(connection) == 1
    people.enable_person(connection, alice)
    assert people.find_hash(connection, alice) == "$argon2id$one"


def test_sessions_do_not_grow_without_bound(connection: Connection, alice: str) -> None:
    first = people.start_session(connection, alice, seconds=HOUR)
    tokens = [people.start_session(connection, alice, seconds=HOUR) for _ in range(SESSIONS_EACH)]
    assert read(connection, first) is None
    assert [read(connection, it) for it in tokens] == [alice] * SESSIONS_EACH
    age(connection, 2 * HOUR)
    people.start_session(connection, alice, seconds=HOUR)
    (row,) = connection.execute("SELECT count(*) AS n FROM console_sessions").fetchall()
    assert row["n"] == 1


def test_a_session_of_one_kind_is_none_of_the_other(connection: Connection, alice: str) -> None:
    for is_proxied in (False, True):
        token = people.start_session(connection, alice, seconds=HOUR, is_proxied=is_proxied)
        found = people.read_session(connection, token, idle_seconds=HOUR, is_proxied=not is_proxied)
        assert found is None
        assert people.read_session(connection, token, idle_seconds=HOUR, is_proxied=is_proxied) is not None


def begin(connection: Connection, **limits: int) -> float:
    return sign_in_attempts.begin_attempt(connection, limits, window_seconds=900).wait_seconds


def test_attempts_beyond_the_limit_wait_until_the_earliest_is_out_of_the_window(connection: Connection) -> None:
    assert [begin(connection, alice=2, address=20) for _ in range(2)] == [0, 0]
    connection.execute("UPDATE console_attempts SET at = at - interval '10 min' WHERE id <= 2")
    assert 290 < begin(connection, alice=2) <= 300
    assert begin(connection, bob=2, address=20) == 0
    assert begin(connection, alice=2, bob=1) > 800, "the longest"
    connection.execute("UPDATE console_attempts SET at = at - interval '5 min' WHERE id <= 2")
    assert begin(connection, alice=2) == 0


def test_attempts_that_are_older_than_the_window_are_removed(connection: Connection) -> None:
    for number in range(10):
        sign_in_attempts.begin_attempt(connection, {f"name {number}": 5, "address": 20}, window_seconds=900)
    connection.execute("UPDATE console_attempts SET at = at - interval '16 min'")
    begin(connection, alice=5)
    (row,) = connection.execute("SELECT count(*) AS n FROM console_attempts").fetchall()
    assert row["n"] == 1


def test_an_attempt_that_succeeds_is_taken_back_and_so_are_the_failures_of_its_name(connection: Connection) -> None:
    begin(connection, alice=2, address=2)
    attempt = sign_in_attempts.begin_attempt(connection, {"alice": 2, "address": 2}, window_seconds=900)
    sign_in_attempts.forget(connection, attempt, ["alice"])
    assert [begin(connection, alice=2), begin(connection, alice=2)] == [0, 0]
    assert begin(connection, address=2) == 0
    assert begin(connection, address=2) > 0, "of the first attempt, and of this test's"


def test_of_many_attempts_at_once_no_more_than_the_limit_may_be_made(database_url: str) -> None:
    together = threading.Barrier(8)

    def attempt(_: int) -> float:
        with connect(database_url, name="test") as own:
            together.wait()
            return begin(own, alice=5)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(it > 0 for it in pool.map(attempt, range(8))) == [False] * 5 + [True] * 3


def test_an_attempt_in_a_transaction_is_refused_for_it_would_not_be_counted(connection: Connection) -> None:
    with connection.transaction(), pytest.raises(RuntimeError, match="in one"):
        begin(connection, alice=5)
