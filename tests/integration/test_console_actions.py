"""What can be done in the console: by whom, on whose things, with its command and its entry in the audit."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import typer.main

from deploy.cli.main import app as cli
from deploy.console.routes import ACTIONS, RULES
from tests.conftest import fresh_database
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

    from deploy.console.actions import Action
    from deploy.local.service import Server
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
    "handler-rename": lambda _: {"handler": "crm.pull", "new_name": "crm.push"},
    "handler-remove": lambda _: {"handler": "crm.gone"},
    "tenant-add": lambda _: {"tenant": "initech", "in_flight": 5},
    "tenant-pause": lambda it: {"tenant": it.tenant},
    "tenant-resume": lambda it: {"tenant": it.tenant},
    "tenant-limit": lambda it: {"tenant": it.tenant, "in_flight": 5, "weight": 2, "rate": "10/s", "inbox": "10MB"},
    "tenant-set": lambda it: {"tenant": it.tenant, "key": "crm", "value": '{"url": "https://crm.example"}'},
    "alert-test": lambda _: {"name": "chat"},
    "user-add": lambda it: {"name": "neo", "role": "operator", "tenants": it.tenant, "password": PASSWORD},
    "user-change": lambda it: {"name": "paul", "role": "operator", "tenants": it.tenant},
    "user-password": lambda _: {"name": "ruth", "password": PASSWORD},
    "user-disable": lambda _: {"name": "ruth"},
    "user-enable": lambda _: {"name": "ruth"},
    "user-remove": lambda _: {"name": "tara"},
}
"""A form that does each action to a tenant's things."""

_WHICH: Final = {"since": "2h", "until": "1s", "provider": "moveris", "type": "it", "rate": "10/s", "all": "yes"}
_ALL: Final = {"tenant": "settled", "handler": HANDLER, "error": "no", **_WHICH}
FILLED: Final[dict[str, tuple[Values, ...]]] = {
    "retry": (_ALL | {"cancelled": "yes"},),
    "resend": (_ALL,),
    "cancel": (_ALL,),
    "backfill": ({"rate": "10/s"},),
    "reprocess": ({"reason": "schema_mismatch", "tenant": "settled", "provider": "moveris", "rate": "10/s"},),
    "endpoint-add": ({"provider": "other", "description": 'preset = "github"'}, {"scheme": "none", "unsigned": "yes"}),
    "endpoint-change": ({"scheme": "", "description": 'preset = "github"'}, {}),
    "secret-expire": ({"even_the_last": "yes"},),
    "tenant-limit": ({"burst": 20},),
    "tenant-set": ({"value": "", "unset": "yes"},),
    "tenant-pause": ({"until": "2h"},),
    "user-add": ({"no_password": "yes"},),
    "user-change": ({}, {"tenants": ""}),
    "user-password": ({"no_password": "yes"},),
}
"""Further values with which, in turn, the command of an action has each of its options."""

USERS: Final = ["paul", "ruth", "tara"]

BEFORE: Final = {
    "job-resume": "UPDATE jobs SET state = 'paused' WHERE filter->>'tenant' = ANY (%(tenants)s)",
    "tenant-resume": "UPDATE tenants SET paused_at = now() WHERE name = ANY (%(tenants)s)",
    "handler-resume": "INSERT INTO handler_pauses (handler, tenant) SELECT 'crm.sync', unnest(%(tenants)s::text[])",
    "endpoint-enable": "UPDATE endpoints SET enabled = false WHERE tenant = ANY (%(tenants)s)",
    "unmute": "UPDATE incidents SET muted_until = now() + interval '1 hour' WHERE %(tenants)s::text[] IS NOT NULL",
}
"""What must be so that an action changes something."""

WITHOUT_ENTRY: Final = {
    "alert-test": "changes nothing",
    "secrets-reencrypt": "all secrets are encrypted by the first key, so that there is nothing to do",
}

OPTIONS_ELSEWHERE: Final = {
    "--json": "for scripts",
    "--dry-run": "every change of many is counted before it is confirmed",
    "--secret-stdin": "a secret is typed into the form",
    "--password-stdin": "the same",
    "--max-in-flight": "an older name of --in-flight",
    "--at": "a time from now, by --in",
    "--lift": "an empty field lifts a limit",
}
"""Options of commands that change something, which their forms do without."""

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
    "jobs wait": "a script's; in the console the job's page refreshes itself",
    "handlers check": "imports the team's code, where it is deployed",
    "secrets check": "tells by its exit code whether all keys are there; the doctor's page says the same",
}
"""Commands that the console leaves to a shell, with the reason."""

PAGES: Final = {
    "verify": "/verify",
    "reconcile": "/reconcile",
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


@pytest.fixture(scope="module")
def served(
    postgres_server: Server, template_database: str, valkey_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    alerts = tmp_path_factory.mktemp("console") / "alerts.toml"
    with http_receiver() as receiver, fresh_database(postgres_server, template_database) as url:
        alerts.write_text(f'[[channel]]\nname = "chat"\ntype = "slack"\nurl = "{receiver.url}"\n')
        with serve_console(url, valkey_server.url, ALERTS=str(alerts)) as it:
            it.console.inbox.flushall()
            for name in (HANDLER, "crm.pull", "crm.gone"):
                announce_handler(it.connection, name)
            it.connection.execute("INSERT INTO console_users (name, role) SELECT unnest(%s::text[]), 'viewer'", [USERS])
            yield it


@pytest.fixture(scope="module")
def viewer(served: Served) -> Guest:
    return guest(served, "viola", "viewer")


@pytest.fixture(scope="module")
def operator_of_all(served: Served) -> Guest:
    return guest(served, "olga", "operator")


@pytest.fixture(scope="module")
def admin(served: Served) -> Guest:
    return guest(served, "ada", "admin")


@pytest.fixture(scope="module")
def settled(served: Served) -> Things:
    """What nothing is done to."""
    return furnish(served, "settled")


def newest_entry(connection: Connection) -> int:
    """Return the number of the audit's latest entry."""
    return audit.list_entries(connection, limit=1)[0].id


def check_audit(connection: Connection, action: Action, who: str, since: int) -> None:
    """Make sure that what was done since an entry is in the audit, with who and why, and without secrets."""
    entries = [it for it in audit.list_entries(connection, limit=100) if it.id > since]
    if action.name not in WITHOUT_ENTRY:
        assert entries
    assert {(it.who, it.why) for it in entries} <= {(who, WHY)}, entries
    assert SECRET not in repr(entries)
    assert PASSWORD not in repr(entries)


@pytest.fixture(scope="module")
def commands(settled: Things, admin: Guest) -> dict[str, str]:
    """The command that the confirmation of each action shows; asked for before anything is done."""
    found = {}
    for action in ACTIONS:
        page = admin.get(f"/do/{action.name}", {**VALUES[action.name](settled), "step": "confirm", "why": WHY})
        command = command_of(page)
        assert command, f"{action.name}: {page.text}"
        found[action.name] = command
    return found


def test_each_action_is_confirmed_by_a_command_that_the_command_line_takes(commands: dict[str, str]) -> None:
    for command in commands.values():
        check_command(command)
        assert SECRET not in command
        assert PASSWORD not in command
    without_reason = [name for name, command in commands.items() if WHY not in shlex.split(command)]
    assert without_reason == ["alert-test"]


def test_everything_that_the_command_line_can_do_can_be_done_in_the_console(commands: dict[str, str]) -> None:
    done = {" ".join(shlex.split(it)[1:3]) for it in commands.values()}
    groups = typer.main.get_group(cli).commands
    known = {
        f"{name} {it}" if it else name
        for name, group in groups.items()
        for it in getattr(group, "commands", {"": group})
    }
    assert set(PAGES.values()) <= {it.path for it in RULES}
    assert known == done | set(PAGES) | set(ELSEWHERE)
    assert not set(ELSEWHERE) & (done | set(PAGES))


def test_each_option_of_a_command_that_changes_something_has_a_field(settled: Things, admin: Guest) -> None:
    taken: dict[tuple[str, ...], set[str]] = {}
    for action in ACTIONS:
        for filled in FILLED.get(action.name, ({},)):
            values = VALUES[action.name](settled) | {"step": "confirm", "why": WHY} | filled
            line = command_of(admin.get(f"/do/{action.name}", values))
            assert line, (action.name, filled)
            words = shlex.split(line)[1:]
            taken.setdefault(tuple(words[:2]), set()).update(it for it in words if it.startswith("--"))
    commands: Any = typer.main.get_group(cli).commands
    for (group, name), options in taken.items():
        known = {it for parameter in commands[group].commands[name].params for it in parameter.opts}
        known = {it for it in known if it.startswith("--")} - {"--help"}
        assert known - set(OPTIONS_ELSEWHERE) <= options, f"{group} {name}"


@pytest.mark.parametrize("action", ACTIONS, ids=lambda it: it.name)
def test_an_action_is_done_by_those_who_may_to_what_is_theirs_and_kept_in_the_audit(
    served: Served, viewer: Guest, operator_of_all: Guest, admin: Guest, action: Action
) -> None:
    connection = served.connection
    acme, globex = (furnish(served, f"{tenant}-{action.name}") for tenant in ("acme", "globex"))
    operator = guest(served, f"otto-{action.name}", "operator", of=(acme.tenant,))
    if action.name in BEFORE:
        connection.execute(BEFORE[action.name], {"tenants": [acme.tenant, globex.tenant]})
    path, before = f"/do/{action.name}", newest_entry(connection)
    own, others = ({**VALUES[action.name](it), "why": WHY} for it in (acme, globex))

    assert viewer.post(path, own).status_code == 403
    assert operator.post(path, others).status_code == 403
    if action.role == "admin":
        assert operator_of_all.post(path, own).status_code == 403
    assert newest_entry(connection) == before

    does: list[tuple[Guest, str, Values]] = [(admin, "ada", own)]
    if action.role == "operator":
        does = [(operator, f"otto-{action.name}", own), (operator_of_all, "olga", others)]
    for somebody, name, values in does:
        before = newest_entry(connection)
        answer = somebody.post(path, values)
        assert answer.status_code == 303, answer.text
        check_audit(connection, action, name, before)


def test_operators_of_a_tenant_do_nothing_to_what_is_of_all_tenants(
    served: Served, settled: Things, operator_of_all: Guest
) -> None:
    other = furnish(served, "other")
    served.connection.execute("INSERT INTO handler_pauses (handler, tenant) VALUES ('crm.sync', '*')")
    operator = guest(served, "otto", "operator", of=("settled",))
    for name, values in {
        "reprocess": {"reason": "schema_mismatch"},
        "retry": {"events": f"{settled.dead} {other.dead}"},
        "resend": {"handler": HANDLER, "all": "yes"},
        "cancel": {"all": "yes", "state": "running"},
        "backfill": {"handler": HANDLER, "since": "1s"},
        "handler-pause": {"handler": HANDLER},
        "handler-resume": {"handler": HANDLER},
        "handler-limit": {"handler": HANDLER, "in_flight": "3"},
    }.items():
        before = newest_entry(served.connection)
        assert operator.post(f"/do/{name}", values).status_code == 403, name
        assert newest_entry(served.connection) == before
        assert operator_of_all.post(f"/do/{name}", values).status_code == 303, name


def test_each_page_shows_a_command_that_the_command_line_takes(
    settled: Things, admin: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("headers.txt", "body.json", "FILE"):  # of `pipeline verify` and `reconcile`
        Path(name).touch()
    queries = {"/events": {"tenant": "acme", "state": "rejected"}, "/audit": {"what": "ten", "target": "acme"}}
    for pattern in PAGES.values():
        path = pattern.replace("{tenant}", "settled").replace("{provider}", "moveris")
        path = path.replace("{handler:path}", HANDLER).replace("{event_id}", str(settled.dead))
        path = path.replace("{id}", str(settled.job if "jobs" in path else settled.incident))
        command = command_of(admin.get(path, queries.get(path)))
        assert command, path
        check_command(command)


def check_command(line: str) -> None:
    """Parse a command as the command line does, without doing it."""
    word, *arguments = shlex.split(line)
    assert word == "pipeline"
    command: Any = typer.main.get_command(cli)
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    with command.make_context("pipeline", list(arguments)):
        pass


@pytest.mark.parametrize("name", ["retry", "handler-pause", "tenant-set", "mute", "secret-expire"])
def test_after_an_action_one_is_where_one_came_from_with_the_same_filters_or_a_link_there(
    settled: Things, admin: Guest, name: str
) -> None:
    back = "/deliveries?tenant=settled&state=dead"
    page = admin.get(f"/do/{name}", {**VALUES[name](settled), "step": "confirm", "back": back})
    assert page.text.count('"/deliveries?tenant=settled&amp;state=dead"') == 2
    answer = admin.post(f"/do/{name}", {**VALUES[name](settled), "back": back})
    to = answer.headers["location"]
    assert to == back or 'href="/deliveries?tenant=settled&amp;state=dead"' in admin.get(to).text
    refused = admin.post(f"/do/{name}", {"back": back, "rate": "much", "in": "much", "until": "much", "for": "much"})
    assert refused.status_code in {400, 404}
