"""The commands `pipeline events …`; bodies and secrets are in no timeline."""

import sys
from dataclasses import asdict
from typing import Annotated, Final, Literal
from uuid import UUID

import redis
import typer
from rich.text import Text

from deploy.cli.arguments import DryRun, Limit, ProviderFilter, Rate, Since, TenantFilter
from deploy.cli.connections import database, inbox_client, names
from deploy.cli.errors import CommandError
from deploy.cli.handlers import load_events
from deploy.cli.jobs import reprocess as run_reprocess
from deploy.cli.output import command, console, emit, wants_json
from deploy.event_timeline import timeline
from shared.settings import SettingError
from workers.ingest.reprocess import reprocess as reprocess_events
from workers.store import audit, event_history
from workers.store.catalogue import Catalogue, read_registrations
from workers.store.event_history import EventHistory
from workers.store.jobs import Filter
from workers.store.rejected import Narrowed, list_rejected

_STYLES: Final = {"": "", "good": "green", "bad": "red", "waiting": "yellow"}
"""Rich's, by mood."""

app: Final = typer.Typer(help="Events: what was received, and what became of it.", no_args_is_help=True)


@command(app, "list")
def list_(
    *,
    tenant: TenantFilter = None,
    state: Annotated[
        Literal["accepted", "rejected"] | None, typer.Option(help="Only accepted or only rejected ones.")
    ] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only of this type.")] = None,
    since: Since = None,
    limit: Limit = 20,
) -> None:
    """List events, newest first; a type is looked for among the newest 100,000 of what else is asked for.

    Examples:
        pipeline events list --tenant acme --since 2h
        pipeline events list --state rejected --limit 100 --json
    """
    with database(read_only=True) as connection:
        found = event_history.list_events(connection, limit=limit, tenant=tenant, state=state, type=type_, since=since)
    emit(found, "received_at", "id", "tenant", "provider", "type", "subject", "state", "reject_reason")
    if type_ is not None and len(found) < limit:
        among = f"the newest {event_history.TYPE_BOUND:,} events"
        print(
            f"pipeline: looked among {among} of that tenant, state and time: --tenant and --since narrow",
            file=sys.stderr,
        )


@command(app, changes=True)
def show(
    event_id: Annotated[UUID, typer.Argument(metavar="ID", help="Id that the ingress answered with.")],
    *,
    body: Annotated[
        bool, typer.Option("--body", help="Print the body and nothing else, byte for byte as received.")
    ] = False,
    tracebacks: Annotated[bool, typer.Option("--tracebacks", help="Show those of failed attempts.")] = False,
) -> None:
    """Show the whole history of one event as a timeline.

    Examples:
        pipeline events show 0198c0de-0000-7000-8000-000000000000
        pipeline events show 0198c0de-0000-7000-8000-000000000000 --body > body.json
    """
    with database(read_only=not body) as connection:
        first_id = event_history.find_event(connection, event_id)
        content = event_history.read_body(connection, first_id) if body else None
        if content is not None:
            audit.record(connection, what="body shown", target=str(first_id))
        history = None if body else event_history.read_history(connection, first_id)
    if content is not None:
        sys.stdout.buffer.write(content)
    elif history is None:
        raise CommandError(_not_stored(event_id))
    elif wants_json():
        emit([history])
    else:
        if first_id != event_id:
            print(f"{event_id} is a duplicate of:")
        _print(history, tracebacks=tracebacks)


@command(app, changes=True, reason_option="--why")
def reprocess(
    event_ids: Annotated[list[UUID] | None, typer.Argument(metavar="[ID]...", help="Rejected events.")] = None,
    *,
    reason: Annotated[
        str | None, typer.Option(help="All that were rejected for this reason, such as schema_mismatch.")
    ] = None,
    tenant: TenantFilter = None,
    provider: ProviderFilter = None,
    rate: Rate = None,
    dry_run: DryRun = False,
) -> None:
    """Parse rejected events again after a fix, and make the deliveries of those that are now accepted.

    Sending them again would not help: the provider's resend is judged as before, or is a duplicate. It is a job: Ctrl-C
    leaves it running.

    Examples:
        pipeline events reprocess --reason schema_mismatch --dry-run
        pipeline events reprocess --reason schema_mismatch --tenant acme --provider moveris
    """
    if not event_ids and reason is None:
        raise CommandError("which ones? give event ids or --reason; `pipeline events list --state rejected` shows them")
    load_events()
    narrowed = Narrowed(event_ids=event_ids or None, reason=reason, tenant=tenant, provider=provider)
    with database() as connection:
        if not read_registrations(connection):
            raise CommandError(
                "no handler is announced, so that none would get these events: start a handler worker first"
            )
        if dry_run:
            ids = narrowed.event_ids if narrowed.is_a_list else list_rejected(connection, narrowed)
            found = reprocess_events(connection, catalogue=Catalogue(), event_ids=ids or (), dry_run=True)
            rows = (asdict(it) | {"dry_run": True} for it in found)
            emit(rows, "event_id", "outcome", "reason", "handlers", "same_as")
            if not wants_json():
                print("nothing was changed")
            return
    run_reprocess(Filter(**asdict(narrowed)), rate=rate)


def _print(history: EventHistory, *, tracebacks: bool) -> None:
    out = console()
    subject = f" · {history.subject}" if history.subject else ""
    out.print(Text(f"{history.id}", style="bold"))
    out.print(Text(f"{history.provider} → {history.tenant} · {history.type or 'type unknown'}{subject}"))
    for line in timeline(history):
        since = (line.at - history.received_at).total_seconds()
        when = line.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        out.print(Text(f"{when}  {since:+12.3f} s  {line.text}", style=_STYLES[line.mood]))
        if tracebacks and line.more:
            out.print(Text(line.more, style="dim"))


def _not_stored(event_id: UUID) -> str:
    """Return the line for an id that Postgres does not know; it may still be in the inbox."""
    try:
        with inbox_client() as client:
            waiting = sum(client.xlen(stream) for stream in names().streams)
    except (redis.RedisError, SettingError):
        return f"no event {event_id} is stored (and Redis did not say what waits in the inbox)"
    if waiting:
        return f"no event {event_id} is stored yet; {waiting} wait in the inbox, look again in a moment"
    return f"no event {event_id} is stored, and the inbox is empty: is the id right, and not older than RETENTION_DAYS?"
