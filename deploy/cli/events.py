"""The commands `pipeline events …`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final, Literal
from uuid import UUID  # noqa: TC003 - typer evaluates signatures

import redis
import typer
from rich.text import Text

from deploy.cli.arguments import DryRun, Limit, Since, TenantFilter  # noqa: TC001 - the same
from deploy.cli.errors import CommandError
from deploy.cli.handlers import load_handlers
from deploy.cli.output import AsJson, console, emit
from deploy.cli.servers import database, redis_client
from deploy.cli.timeline import lines_of
from shared.settings import SettingError
from shared.wire import INBOX
from workers.ingest.reprocess import reprocess as reprocess_events
from workers.store import event_history

if TYPE_CHECKING:
    from workers.store.event_history import EventHistory

app = typer.Typer(help="Events: what was received, and what became of it.", no_args_is_help=True)

_READ_SECONDS: Final = 30


@app.command("list")
def list_(
    *,
    tenant: TenantFilter = None,
    state: Annotated[
        Literal["accepted", "rejected"] | None, typer.Option(help="Only accepted or only rejected ones.")
    ] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only of this type.")] = None,
    since: Since = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List events, newest first.

    Examples:
        pipeline events list --tenant acme --since 2h
        pipeline events list --state rejected --limit 100 --json
    """
    with database(read_seconds=_READ_SECONDS) as connection:
        found = event_history.list_events(connection, limit=limit, tenant=tenant, state=state, type=type_, since=since)
    emit(
        (asdict(it) for it in found),
        as_json=as_json,
        columns=["received_at", "id", "tenant", "provider", "type", "subject", "state", "reject_reason"],
    )


@app.command()
def show(
    event_id: Annotated[UUID, typer.Argument(metavar="ID", help="Id that the ingress answered with.")],
    *,
    body: Annotated[
        bool, typer.Option("--body", help="Print the body and nothing else, byte for byte as received.")
    ] = False,
    tracebacks: Annotated[bool, typer.Option("--tracebacks", help="Show those of failed attempts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell the whole story of one event as a timeline.

    Examples:
        pipeline events show 0198c0de-0000-7000-8000-000000000000
        pipeline events show 0198c0de-0000-7000-8000-000000000000 --body > body.json
    """
    with database(read_seconds=_READ_SECONDS) as connection:
        first_id = event_history.find_event(connection, event_id)
        if body:
            content = event_history.read_body(connection, first_id)
            if content is None:
                raise CommandError(_not_stored(event_id))
            sys.stdout.buffer.write(content)
            return
        story = event_history.read_history(connection, first_id)
    if story is None:
        raise CommandError(_not_stored(event_id))
    if as_json:
        emit([asdict(story)], as_json=True, columns=[])
        return
    if first_id != event_id:
        print(f"{event_id} is a duplicate of:")
    _print(story, tracebacks=tracebacks)


@app.command()
def reprocess(
    event_ids: Annotated[list[UUID] | None, typer.Argument(metavar="[ID]...", help="Rejected events.")] = None,
    *,
    reason: Annotated[
        str | None, typer.Option(help="All that were rejected for this reason, such as schema_mismatch.")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Parse rejected events again after a fix, and make the deliveries of those that are now accepted.

    Sending them again would not help: the provider's resend is judged as before, or is a duplicate.

    Examples:
        pipeline events reprocess --reason schema_mismatch --dry-run
    """
    if not event_ids and reason is None:
        raise CommandError("which ones? give event ids or --reason; `pipeline events list --state rejected` shows them")
    handlers = load_handlers()
    with database() as connection:
        outcomes = reprocess_events(
            connection, wanting=handlers.wanting, event_ids=event_ids or [], reason=reason, dry_run=dry_run
        )
        rows = (asdict(it) | {"dry_run": dry_run, "handlers": list(it.handlers)} for it in outcomes)
        emit(
            rows if as_json else (row | {"handlers": ", ".join(row["handlers"])} for row in rows),
            as_json=as_json,
            columns=["event_id", "outcome", "reason", "handlers", "same_as"],
        )
    if dry_run and not as_json:
        print("nothing was changed")


def _print(story: EventHistory, *, tracebacks: bool) -> None:
    out = console()
    subject = f" · {story.subject}" if story.subject else ""
    out.print(Text(f"{story.id}", style="bold"))
    out.print(Text(f"{story.provider} → {story.tenant} · {story.type or 'type unknown'}{subject}"))
    for line in lines_of(story, tracebacks=tracebacks):
        since = (line.at - story.received_at).total_seconds()
        when = line.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        out.print(Text(f"{when}  {since:+12.3f} s  {line.text}", style=line.style))
        if line.more:
            out.print(Text(line.more, style="dim"))


def _not_stored(event_id: UUID) -> str:
    """Return the line for an id that Postgres does not know; it may still be in the inbox."""
    try:
        with redis_client() as client:
            waiting = client.xlen(INBOX)
    except (redis.RedisError, SettingError):
        return f"no event {event_id} is stored (and Redis did not say what waits in the inbox)"
    if waiting:
        return f"no event {event_id} is stored yet; {waiting} wait in the inbox, look again in a moment"
    return f"no event {event_id} is stored, and the inbox is empty: is the id right, and not older than RETENTION_DAYS?"
