"""Alerts: the channels that are told of incidents, and whether that arrives."""

from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from starlette.responses import Response

from deploy.cli.alerts import target
from deploy.console.actions import Action, Done, Field, Plan
from deploy.console.rendering import command_line
from deploy.console.rules import Rule
from deploy.console.visit import InputError, NotFoundError, Visit
from workers.housekeeping import alert_content
from workers.housekeeping.alert_channels import Channel, ChannelError, read_channels
from workers.housekeeping.alert_sending import SendError, send
from workers.store import alerts


def list_channels(visit: Visit) -> Response:
    """Show the channels, what waits to be sent, and why it does not arrive."""
    channels, problem = _read(visit)
    known = {it["name"]: it for it in alerts.read_channels(visit.connection, [it.name for it in channels])}
    rows = [(it, type(it).__name__.lower(), target(it), known[it.name]) for it in channels]
    command = command_line("alerts", "list")
    return visit.page("alerts", title="Alerts", channels=rows, problem=problem, command=command, live=True)


def _read(visit: Visit) -> tuple[list[Channel], str]:
    """Return the channels, or why they are not known."""
    path = visit.console.settings.alerts
    if path is None:
        return [], "ALERTS is not set here: it names the file of channels, see deploy/INCIDENTS.md"
    try:
        return read_channels(path), ""
    except ChannelError as error:
        return [], str(error)


def _find(visit: Visit) -> Channel:
    name, (channels, _) = visit.given("name"), _read(visit)
    for it in channels:
        if it.name == name:
            return it
    raise NotFoundError(f"no channel is named {name!r}")


def _plan_test(visit: Visit) -> Plan:
    name = _find(visit).name
    return Plan(sentence=f"Send a test message to {name} at once.", command=command_line("alerts", "test", name))


def _test(visit: Visit) -> Done:
    channel, now = _find(visit), datetime.now(UTC)
    try:
        send(channel, uuid4(), alert_content.test_content(now=now), now=now)
    except SendError as error:
        raise InputError(f"it did not arrive: {error}") from None
    return Done(said=f"the test message has arrived at {channel.name}", to="/alerts")


RULES: Final = (Rule(method="GET", path="/alerts", role="viewer", page=list_channels),)
ACTIONS: Final = (
    Action(
        name="alert-test",
        title="Send a test message",
        role="admin",
        fields=(Field(name="name", label="Channel", kind="fixed", required=True),),
        plan=_plan_test,
        perform=_test,
    ),
)
