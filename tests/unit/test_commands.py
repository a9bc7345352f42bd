"""The commands of `pipeline`, as they are declared."""

from __future__ import annotations

import pytest
import typer.main

from deploy.cli import (
    alerts,
    audit,
    console,
    deliveries,
    endpoints,
    events,
    handlers,
    incidents,
    jobs,
    secrets,
    tenants,
)

GROUPS = (alerts, audit, console, deliveries, endpoints, events, handlers, incidents, jobs, secrets, tenants)
READING = {"list", "show", "check", "test", "wait", "limits", "list-users"}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__.rpartition(".")[2])
def test_each_command_that_changes_something_takes_a_reason_for_the_audit(group: object) -> None:
    commands = typer.main.get_group(group.app).commands  # type: ignore[attr-defined]
    without = {name for name, command in commands.items() if "why" not in {it.name for it in command.params}}
    assert without <= READING
