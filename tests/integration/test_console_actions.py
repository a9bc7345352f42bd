"""What can be done in the console: each action by whom, on whose things, with its command and its entry in the audit."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

import pytest
import typer.main

from deploy.cli.main import app as cli
from deploy.console.routes import ACTIONS, RULES
from tests.console import (
    HANDLER,
    SECRET,
    Guest,
    Served,
    Things,
    announce_handler,
    command_of,
    furnish,
    guest,
    serve_console,
)
from tests.receivers import http_receiver
from workers.store import audit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redis import Redis

    from deploy.console.actions import Action
    from workers.store.connect import Connection

WHY: Final = "a test, isn't it"
PASSWORD: Final = "another horse battery"
Values = dict[str, Any]


def _of_endpoint(it: Things) -> Values:
    return {"tenant": it.tenant, "provider": "moveris"}


def _of_handler(it: Things) -> Values:
    return {"tenant": it.tenant, "handler": HANDLER}


VALUES: Final[dict[str, Callable[[Things], Values]]] = {
    "reprocess": lambda it: {"events": it.rejected},
    "retry": lambda it: {"events": it.dead, "rate": "10/s"},
    "resend": lambda it: {"events": it.succeeded, "handler": HANDLER},
    "cancel": lambda it: {"events": it.pending, "state": "pending"},
    "backfill": lambda it: _of_handler(it) | {"since": "1h"},
    "replay": lambda it: {"id": it.incident, "rate": "10/s"},
    "resolve": lambda it: {"id": it.incident},
    "mute": lambda it: {"id": it.incident, "for": "2h"},
    "unmute": lambda it: {"id": it.incident},
    "job-pause": lambda it: {"id": it.job},
    "job-resume": lambda it: {"id": it.job},
    "job-cancel": lambda it: {"id": it.job},
    "endpoint-add": lambda it: {"tenant": it.tenant, "provider": "github", "label": "main", "secret": SECRET},
    "endpoint-change": lambda it: _of_endpoint(it) | {"scheme": "github"},
    "endpoint-disable": _of_endpoint,
    "endpoint-enable": _of_endpoint,
    "secret-add": lambda it: _of_endpoint(it) | {"label": "third", "secret": SECRET},
    "secret-expire": lambda it: _of_endpoint(it) | {"label": "first", "in": "2h"},
    "secrets-reencrypt": lambda _: {},
    "handler-pause": lambda it: _of_handler(it) | {"until": "2h"},
    "handler-resume": _of_handler,
    "handler-limit": lambda it: _of_handler(it) | {"in_flight": 3, "rate": "10/s"},
    "handler-rename": lambda _: {"handler": HANDLER, "new_name": "crm.push"},
    "handler-remove": lambda _: {"handler": HANDLER},
    "tenant-add": lambda _: {"tenant": "initech", "in_flight": 5},
    "tenant-pause": lambda it: {"tenant": it.tenant},
    "tenant-resume": lambda it: {"tenant": it.tenant},
    "tenant-limit": lambda it: {"tenant": it.tenant, "in_flight": 5, "weight": 2, "rate": "10/s", "inbox": "10MB"},
    "tenant-set": lambda it: {"tenant": it.tenant, "key": "crm", "value": '{"url": "https://crm.example"}'},
    "alert-test": lambda _: {"name": "chat"},
    "user-add": lambda _: {"name": "neo", "role": "operator", "tenants": "acme", "password": PASSWORD},
    "user-change": lambda _: {"name": "vera", "role": "operator", "tenants": "acme"},
    "user-password": lambda _: {"name": "vera", "password": PASSWORD},
    "user-remove": lambda _: {"name": "vera"},
}
"""A form that does each action to a tenant's things."""

BEFORE: Final = {
    "job-resume": "UPDATE jobs SET state = 'paused'",
    "tenant-resume": "UPDATE tenants SET paused_at = now()",
    "handler-resume": "INSERT INTO handler_pauses (handler, tenant) SELECT 'crm.sync', name FROM tenants",
    "endpoint-enable": "UPDATE endpoints SET enabled = false",
    "unmute": "UPDATE incidents SET muted_until = now() + interval '1 hour'",
    "user-change": "INSERT INTO console_users (name, role) VALUES ('vera', 'viewer')",
    "user-password": "INSERT INTO console_users (name, role) VALUES ('vera', 'viewer')",
    "user-remove": "INSERT INTO console_users (name, role) VALUES ('vera', 'viewer')",
}
"""What must be so that an action changes something."""

WITHOUT_ENTRY: Final = {
    "alert-test": "changes nothing",
    "secrets-reencrypt": "all secrets are encrypted by the first key, so that there is nothing to do",
}

ELSEWHERE: Final = {
    "up": "starts the stack that the console is a part of",
    "health": "is asked by whoever runs the processes, on their machine",
    "migrate": "is a deployment, by a role that may change tables",
    "grants": "prints statements for the database's owner",
    "adopt": "follows the move of a database, while nothing runs",
    "rename": "is a deployment, with the names that processes have",
    "env": "prints settings, with passwords, for a shell",
    "send": "makes load on an ingress, with the secret of an endpoint",
    "keygen": "prints a key, which the console should not see",
    "reconcile": "reads a file of the provider's, as long as it is",
    "jobs wait": "a script's; in the console the job's page refreshes itself",
    "handlers check": "imports the team's code, where it is deployed",
    "secrets check": "tells by its exit code whether all keys are there; the doctor's page says the same",
}
"""Commands that the console leaves to a shell, with the reason."""

PAGES: Final = {
    "verify": "/verify",
    "stats": "/",
    "doctor": "/doctor",
    "tenants list": "/tenants",
    "tenants show": "/tenants/{tenant}",
    "endpoints list": "/endpoints",
    "secrets list": "/endpoints/{tenant}/{provider}",
    "events list": "/events",
    "events show": "/events/{event_id}",
    "deliveries list": "/deliveries",
    "handlers list": "/handlers",
    "handlers limits": "/handlers/{handler:path}",
    "incidents list": "/failures",
    "incidents show": "/failures/{id}",
    "alerts list": "/alerts",
    "jobs list": "/jobs",
    "jobs show": "/jobs/{id}",
    "audit list": "/audit",
    "console list-users": "/users",
}
"""Commands that show something, and the page that shows it."""


@pytest.fixture
def served(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Served]:
    with http_receiver() as receiver:
        alerts = tmp_path / "alerts.toml"
        alerts.write_text(f'[[channel]]\nname = "chat"\ntype = "slack"\nurl = "{receiver.url}"\n')
        with serve_console(database_url, redis_url, ALERTS=str(alerts)) as it:
            yield it


@pytest.fixture
def acme(connection: Connection, client: Redis) -> Things:
    announce_handler(connection)
    return furnish(connection, client, "acme")


@pytest.fixture
def globex(connection: Connection, client: Redis) -> Things:
    return furnish(connection, client, "globex")


def newest_entry(connection: Connection) -> int:
    """Return the number of the audit's latest entry."""
    return audit.list_entries(connection, limit=1)[0].id


def check_audit(connection: Connection, action: Action, who: str, since: int) -> None:
    """Make sure that an action, and nothing but that, is in the audit with who and why."""
    entries = [it for it in audit.list_entries(connection, limit=100) if it.id > since]
    if action.name not in WITHOUT_ENTRY:
        assert entries
    assert {(it.who, it.why) for it in entries} <= {(who, WHY)}, entries
    assert SECRET not in repr(entries)
    assert PASSWORD not in repr(entries)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda it: it.name)
def test_an_action_is_done_by_those_who_may_to_what_is_theirs_and_kept_in_the_audit(
    served: Served, connection: Connection, acme: Things, globex: Things, action: Action
) -> None:
    viewer = guest(served, connection, "viola", "viewer")
    otto = guest(served, connection, "otto", "operator", of=("acme",))
    olga = guest(served, connection, "olga", "operator")
    ada = guest(served, connection, "ada", "admin")
    if action.name in BEFORE:
        connection.execute(BEFORE[action.name])
    path, before = f"/do/{action.name}", newest_entry(connection)
    own, others = ({**VALUES[action.name](it), "why": WHY} for it in (acme, globex))

    assert viewer.post(path, own).status_code == 403
    assert otto.post(path, others).status_code == 403
    if action.role == "admin":
        assert olga.post(path, own).status_code == 403
    assert newest_entry(connection) == before

    does: list[tuple[Guest, str, Values]] = [(ada, "ada", own)]
    if action.role == "operator":
        does = [(otto, "otto", own), (olga, "olga", others)]
    for somebody, name, values in does:
        before = newest_entry(connection)
        answer = somebody.post(path, values)
        assert answer.status_code == 303, answer.text
        check_audit(connection, action, name, before)


@pytest.mark.parametrize("action", [it for it in ACTIONS if it.role == "operator"], ids=lambda it: it.name)
def test_operators_of_a_tenant_do_nothing_to_what_is_of_all_tenants(
    served: Served, connection: Connection, acme: Things, globex: Things, action: Action
) -> None:
    values = {
        "reprocess": {"reason": "schema_mismatch"},
        "retry": {"events": f"{acme.dead} {globex.dead}"},
        "resend": {"handler": HANDLER, "all": "yes"},
        "cancel": {"all": "yes"},
        "backfill": {"handler": HANDLER, "since": "1h"},
        "handler-pause": {"handler": HANDLER},
        "handler-resume": {"handler": HANDLER},
        "handler-limit": {"handler": HANDLER, "in_flight": 3},
    }
    if action.name not in values:
        pytest.skip("is of one tenant always")
    connection.execute("INSERT INTO handler_pauses (handler, tenant) VALUES ('crm.sync', '*')")
    otto = guest(served, connection, "otto", "operator", of=("acme",))
    olga = guest(served, connection, "olga", "operator")
    before = newest_entry(connection)
    assert otto.post(f"/do/{action.name}", values[action.name]).status_code == 403
    assert newest_entry(connection) == before
    assert olga.post(f"/do/{action.name}", values[action.name]).status_code == 303


def test_each_action_is_confirmed_by_a_sentence_and_by_a_command_that_the_command_line_takes(
    served: Served, connection: Connection, acme: Things
) -> None:
    connection.execute("INSERT INTO console_users (name, role) VALUES ('vera', 'viewer')")
    ada = guest(served, connection, "ada", "admin")
    shown = {}
    for action in ACTIONS:
        page = ada.get(f"/do/{action.name}", {**VALUES[action.name](acme), "step": "confirm", "why": WHY})
        assert page.status_code == 200, action.name
        command = command_of(page)
        assert command, f"{action.name}: {page.text}"
        shown[action.name] = command
        check_command(command)
        takes_reason = "--reason" in command or "--why" in command
        assert takes_reason or action.name in WITHOUT_ENTRY, command
    assert not [it for it in shown.values() if SECRET in it or PASSWORD in it]


def test_each_page_shows_a_command_that_the_command_line_takes(
    served: Served, connection: Connection, acme: Things
) -> None:
    ada = guest(served, connection, "ada", "admin")
    queries = {"/events": {"tenant": "acme", "state": "rejected"}, "/audit": {"what": "ten", "target": "acme"}}
    for path in PAGES.values():
        for it in ("{tenant}", "{provider}", "{event_id}", "{handler:path}"):
            path = path.replace(it, {"{tenant}": "acme", "{provider}": "moveris"}.get(it, HANDLER))
        path = path.replace(f"/events/{HANDLER}", f"/events/{acme.dead}")
        path = path.replace("{id}", str(acme.job if "jobs" in path else acme.incident))
        command = command_of(ada.get(path, queries.get(path)))
        assert command, path
        check_command(command)


def check_command(line: str) -> None:
    """Parse a command as the command line does, without doing it."""
    word, *arguments = shlex.split(line)
    assert word == "pipeline"
    command = typer.main.get_command(cli)
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    with command.make_context("pipeline", list(arguments)):
        pass


def test_everything_that_the_command_line_can_do_can_be_done_in_the_console(
    served: Served, connection: Connection, acme: Things
) -> None:
    connection.execute("INSERT INTO console_users (name, role) VALUES ('vera', 'viewer')")
    ada = guest(served, connection, "ada", "admin")
    done = set()
    for action in ACTIONS:
        command = command_of(ada.get(f"/do/{action.name}", {**VALUES[action.name](acme), "step": "confirm"}))
        assert command
        done.add(" ".join(shlex.split(command)[1:3]))
    groups = typer.main.get_group(cli).commands
    known = {
        f"{name} {it}" if it else name
        for name, group in groups.items()
        for it in getattr(group, "commands", {"": group})
    }
    assert set(PAGES.values()) <= {it.path for it in RULES}
    assert known == done | set(PAGES) | set(ELSEWHERE)
    assert not set(ELSEWHERE) & (done | set(PAGES))
