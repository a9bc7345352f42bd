"""The commands `pipeline alerts …`; channels are configured in the file that ALERTS names."""

import sys
from datetime import UTC, datetime
from typing import Annotated, Final
from urllib.parse import urlsplit
from uuid import uuid4

import typer

from deploy.cli.connections import database
from deploy.cli.errors import CommandError
from deploy.cli.output import command, emit
from deploy.local.settings import GivenSettings
from shared.settings import load
from workers.housekeeping import alert_content
from workers.housekeeping.alert_channels import Channel, ChannelError, Email, Slack, Webhook, read_channels
from workers.housekeeping.alert_sending import SendError, send
from workers.store import alerts

app: Final = typer.Typer(help="Alerts: who is told of incidents, and what has arrived.", no_args_is_help=True)


@command(app, "list")
def list_() -> None:
    """List the channels: what waits to be sent, when something was sent last, and why it does not arrive.

    Examples:
        ALERTS=/etc/webhook-pipeline/alerts.toml pipeline alerts list
    """
    channels = _read()
    with database(read_only=True) as connection:
        known = {it["name"]: it for it in alerts.read_channels(connection, [it.name for it in channels])}
    rows = [
        {"name": it.name, "type": type(it).__name__.lower(), "tenants": it.tenants or "all", "to": target(it)}
        | known[it.name]
        for it in channels
    ]
    emit(rows, "name", "type", "tenants", "to", "waiting", "last_sent", "attempts", "error")


@command(app, "test")
def send_test(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Channels; all if none is given.")
    ] = None,
) -> None:
    """Send a test message to channels at once, from here; status 1 if one does not arrive.

    Examples:
        ALERTS=/etc/webhook-pipeline/alerts.toml pipeline alerts test operations
    """
    channels = _read()
    if unknown := sorted(set(names or ()) - {it.name for it in channels}):
        raise CommandError(f"no channel is named {unknown[0]!r}; there are: {', '.join(it.name for it in channels)}")
    rows = []
    for channel in channels:
        if names and channel.name not in names:
            continue
        now = datetime.now(UTC)
        error = None
        try:
            send(channel, uuid4(), alert_content.test_content(now=now), now=now)
        except SendError as failure:
            error = str(failure)
        seconds = round((datetime.now(UTC) - now).total_seconds(), 3)
        rows.append({"name": channel.name, "arrived": error is None, "seconds": seconds, "error": error})
    emit(rows, "name", "arrived", "seconds", "error")
    if not all(it["arrived"] for it in rows):
        sys.exit(1)


def _read() -> list[Channel]:
    path = load(GivenSettings).alerts
    if path is None:
        raise CommandError("ALERTS is not set: it names the file of channels, see deploy/INCIDENTS.md")
    try:
        return read_channels(path)
    except ChannelError as error:
        raise CommandError(str(error)) from None


def target(channel: Channel) -> str:
    """Return where a channel leads, without what would be a secret."""
    match channel:
        case Webhook() | Slack():
            return urlsplit(channel.url).netloc.rpartition("@")[2]  # paths of such URLs are often the secret
        case Email():
            return ", ".join(channel.recipients)
    return ""
