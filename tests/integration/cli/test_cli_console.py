"""`pipeline console`, as processes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from deploy.console.passwords import is_right
from workers.store import audit, people, tenants

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Pipeline
    from workers.store.connect import Connection

PASSWORD = "correct horse battery"


def add(pipeline: Pipeline, *arguments: str, password: str = PASSWORD) -> str:
    return pipeline("console", "add-user", *arguments, "--password-stdin", stdin=f"{password}\r\n".encode()).text


def known(connection: Connection, name: str) -> str | None:
    return people.find_hash(connection, name)


def test_a_user_is_added_with_a_password_that_nothing_shows(pipeline: Pipeline, connection: Connection) -> None:
    tenants.add_tenant(connection, "acme")
    said = add(pipeline, "alice", "--role", "operator", "--tenant", "acme", "--reason", "she is new")
    assert "added alice, operator of acme" in said
    assert PASSWORD not in said
    assert is_right(PASSWORD, known(connection, "alice"))
    (row,) = pipeline.json("console", "list-users")
    assert (row["name"], row["role"], row["tenants"], row["has_password"]) == ("alice", "operator", ["acme"], True)
    assert "argon2" not in pipeline("console", "list-users").text + str(row)
    (entry,) = audit.list_entries(connection, limit=5, target="alice")
    assert (entry.what, entry.why) == ("console_users added", "she is new")


def test_a_password_is_asked_for_twice_and_not_shown(pipeline: Pipeline, connection: Connection) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "console", "add-user", "alice", "--role", "admin"],
        stdin=child,
        stdout=child,
        stderr=child,
        env=pipeline.environ,
        cwd=pipeline.folder,
        start_new_session=True,
    )
    os.close(child)
    screen = b""
    for question in (b"Password (not shown): ", b"Again (not shown): "):
        while not screen.endswith(question):  # what is typed before is thrown away, lest it be shown
            screen += os.read(parent, 1000)
        os.write(parent, PASSWORD.encode() + b"\n")
    try:
        while chunk := os.read(parent, 1000):
            screen += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    assert process.wait(30) == 0, screen
    os.close(parent)
    assert PASSWORD.encode() not in screen
    assert is_right(PASSWORD, known(connection, "alice"))


@pytest.mark.parametrize(
    ("arguments", "stdin", "reason"),
    [
        (("--role", "admin", "--password-stdin"), b"short\n", "take at least 12"),
        (("--role", "admin", "--password-stdin"), b" correct horse battery\n", "white space around it"),
        (("--role", "admin", "--password-stdin"), b"correct horse\nbattery staple\n", "more than one line"),
        (("--role", "admin", "--password-stdin"), b"\xff\xfec\x00o\x00", "no text in UTF-8"),
        (("--role", "admin"), b"", "pipe it in and add --password-stdin"),
        (("--role", "admin", "--password-stdin", "--no-password"), b"", "give one of them"),
        (("--role", "admin", "--tenant", "acme", "--no-password"), b"", "tenants are of operators only"),
        (("--role", "operator", "--tenant", "nobody", "--no-password"), b"", "no tenant 'nobody'"),
    ],
)
def test_what_cannot_be_a_user_is_refused_in_one_line(
    pipeline: Pipeline, connection: Connection, arguments: tuple[str, ...], stdin: bytes, reason: str
) -> None:
    refused = pipeline("console", "add-user", "alice", *arguments, stdin=stdin, status=1)
    assert reason in refused.err
    assert len(refused.err.splitlines()) == 1
    assert people.count_people(connection) == 0


def test_a_role_that_there_is_not_is_named_with_those_that_there_are(pipeline: Pipeline) -> None:
    refused = pipeline("console", "add-user", "alice", "--role", "root", "--no-password", status=2)
    assert "viewer, operator, admin" in " ".join(refused.err.replace("│", " ").split())


def test_what_is_not_given_stays_when_a_user_is_changed(pipeline: Pipeline, connection: Connection) -> None:
    for name in ("acme", "globex"):
        tenants.add_tenant(connection, name)

    def change(*arguments: str) -> tuple[str, str]:
        said = pipeline("console", "change-user", "bob", *arguments).text.strip()
        return said.removeprefix("bob is "), repr(people.list_people(connection)[0].tenants)

    pipeline("console", "add-user", "bob", "--role", "operator", "--no-password")
    assert change("--tenant", "globex", "--tenant", "acme") == ("operator of acme, globex", "['acme', 'globex']")
    assert change("--role", "operator") == ("operator of acme, globex", "['acme', 'globex']")
    assert change("--all-tenants") == ("operator of all tenants", "None")
    change("--tenant", "acme")
    assert change("--role", "admin") == ("admin", "None")
    assert change("--disable")[0] == "admin, disabled"
    assert people.find_person(connection, "bob") is None
    assert change("--enable")[0] == "admin"
    assert "nothing to change" in pipeline("console", "change-user", "bob", status=1).err
    assert "the opposite" in pipeline("console", "change-user", "bob", "--enable", "--disable", status=1).err


def test_a_new_password_and_a_removal_end_sessions(pipeline: Pipeline, connection: Connection) -> None:
    add(pipeline, "alice", "--role", "viewer")
    token = people.start_session(connection, "alice", seconds=3600)
    pipeline("console", "set-password", "alice", "--password-stdin", stdin=b"another horse battery")
    assert people.read_session(connection, token, idle_seconds=3600) is None
    assert is_right("another horse battery", known(connection, "alice"))
    pipeline("console", "set-password", "alice", "--no-password")
    assert known(connection, "alice") is None
    pipeline("console", "remove-user", "alice")
    assert pipeline.json("console", "list-users") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("change-user", "--role", "admin"),
        ("change-user", "--disable"),
        ("set-password", "--no-password"),
        ("remove-user",),
    ],
    ids=" ".join,
)
def test_somebody_who_is_not_there_is_named(pipeline: Pipeline, arguments: tuple[str, ...]) -> None:
    name, *options = arguments
    refused = pipeline("console", name, "nobody", *options, status=1)
    assert refused.err == "pipeline: the console has no user 'nobody'; `pipeline console list-users` shows them\n"
