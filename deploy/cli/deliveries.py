"""The commands `pipeline deliveries …`."""

import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import typer
from rich.console import Console

from deploy.cli.arguments import (
    DryRun,
    ErrorFilter,
    HandlerFilter,
    HandlerName,
    Limit,
    ProviderFilter,
    Rate,
    Since,
    TenantFilter,
    TypeFilter,
    Until,
    past,
)
from deploy.cli.connections import database
from deploy.cli.errors import CommandError
from deploy.cli.jobs import change, run, say_deliveries
from deploy.cli.output import command, emit, say
from workers.store import catalogue, event_history, manual
from workers.store.connect import Connection
from workers.store.jobs import Filter
from workers.store.limits import ANY

app: Final = typer.Typer(
    help="Deliveries: one event for one handler, until it succeeds or is dead.", no_args_is_help=True
)

State = StrEnum("State", "pending queued running succeeded dead cancelled")
OpenState = Literal["pending", "queued", "running"]
Ids = Annotated[list[UUID] | None, typer.Argument(metavar="[EVENT_ID]...", help="Only of these events.")]
Everything = Annotated[bool, typer.Option("--all", help="All of them, when nothing narrows the choice.")]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which deliveries a command is for, as its options."""

    event_ids: Ids = None
    tenant: TenantFilter = None
    since: Since = None
    until: Until = None
    provider: ProviderFilter = None
    type_: TypeFilter = None
    everything: Everything = False

    def to_filter(self, **more: Any) -> Filter:
        """Return what the options say; everything may be meant only if that was said."""
        given = {name.rstrip("_"): value or None for name, value in vars(self).items() if name != "everything"}
        chosen = Filter(**given | more)
        if not self.everything and chosen == Filter():
            raise CommandError(
                "which ones? give event ids, --tenant, --since or another filter, or --all for everything"
            )
        return chosen


@dataclass(frozen=True, kw_only=True)
class ChoiceOfAny(Choice):
    """The same, of any handler."""

    handler: HandlerFilter = None
    error: ErrorFilter = None


@command(app, "list")
def list_(
    *,
    state: Annotated[
        list[State] | None, typer.Option(help="Only in this state; may be repeated. Default: open and dead.")
    ] = None,
    tenant: TenantFilter = None,
    handler: HandlerFilter = None,
    limit: Limit = 20,
) -> None:
    """List deliveries, those of the newest events first.

    Examples:
        pipeline deliveries list --state dead --tenant acme
    """
    states: list[str] = [*(state or (*event_history.OPEN_STATES, "dead"))]
    with database(read_only=True) as connection:
        found = event_history.list_deliveries(connection, states=states, tenant=tenant, handler=handler, limit=limit)
    emit(found, "event_id", "tenant", "handler", "state", "attempt", "due_at", "finished_at", "last_error")
    if State.succeeded in states and handler is not None and len(found) < limit:
        among = f"the newest {event_history.SUCCEEDED_BOUND:,} that succeeded"
        if tenant is not None:
            among = f"those of the newest {event_history.TENANT_EVENTS_BOUND:,} events of {tenant}"
        print(f"pipeline: looked for what {handler} has done among {among}", file=sys.stderr)


@command(app, changes=True)
def retry(
    *,
    options: ChoiceOfAny,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Cancelled deliveries instead of dead ones.")] = False,
    rate: Rate = None,
    dry_run: DryRun = False,
) -> None:
    """Put dead deliveries back: due at once, with all their attempts again.

    What was recorded of earlier attempts stays in the event's history. It is a job: Ctrl-C leaves it running.

    Examples:
        pipeline deliveries retry --handler acme.grant_access --since 2h --dry-run
        pipeline deliveries retry --error "503 Service Unavailable" --rate 100/s
        pipeline deliveries retry 0198c0de-0000-7000-8000-000000000000
    """
    chosen = replace(options.to_filter(), state="cancelled" if cancelled else "dead")
    change("retry", chosen, "put back", rate=rate, dry_run=dry_run)


@command(app, changes=True)
def resend(
    handler: HandlerName,
    *,
    options: Choice,
    rate: Rate = None,
    dry_run: DryRun = False,
) -> None:
    """Run a handler once more for events that it has handled with success.

    Its effects happen again, unless it tells by `delivery.idempotency_key` that they have happened.

    Examples:
        pipeline deliveries resend acme.sync_crm --tenant acme --since 2h --dry-run
        pipeline deliveries resend acme.sync_crm 0198c0de-0000-7000-8000-000000000000
    """
    change("resend", replace(options.to_filter(), handler=handler), "put back", rate=rate, dry_run=dry_run)


@command(app, changes=True)
def cancel(
    *,
    options: ChoiceOfAny,
    state: Annotated[OpenState | None, typer.Option(help="Only in this state.")] = None,
    rate: Rate = None,
    dry_run: DryRun = False,
) -> None:
    """Cancel open deliveries; they can be put back with `deliveries retry --cancelled`.

    Of one that runs at this moment nothing is kept that it wrote through `delivery.connection`. It is a job: Ctrl-C
    leaves it running.

    Examples:
        pipeline deliveries cancel --tenant acme --handler acme.mail --dry-run
    """
    change("cancel", options.to_filter(state=state), "cancelled", rate=rate, dry_run=dry_run)


@command(app, changes=True)
def backfill(
    name: HandlerName,
    *,
    since: Annotated[
        datetime, typer.Option(parser=past, metavar="TIME", help="Events received since then: 2h, 7d, or a date.")
    ],
    tenant: TenantFilter = None,
    rate: Rate = None,
    dry_run: DryRun = False,
) -> None:
    """Make the deliveries of a handler that was deployed later than its events came.

    Events that have a delivery of it already, in whatever state, get no other. It is a job: Ctrl-C leaves it running.

    Examples:
        pipeline deliveries backfill acme.grant_access --since 7d --dry-run
    """
    with database(read_only=True) as connection:
        registrations = catalogue.read_registrations(connection)
    known = registrations.get(name)
    if known is None:
        names = ", ".join(registrations) or "none"
        raise CommandError(f"no worker has announced a handler {name!r}; there are: {names}")
    if tenant is not None and known.tenant not in {ANY, tenant}:
        raise CommandError(f"{name} takes events of the tenant {known.tenant!r} only, not of {tenant!r}")
    provider, event, whose = (None if it == ANY else it for it in (known.provider, known.event, tenant or known.tenant))
    with database() as connection:
        if dry_run:
            looked_at, missing = _count_missing(connection, name, provider, event, whose, since=since)
        else:
            chosen = Filter(handler=name, provider=provider, type=event, tenant=whose, since=since)
            job, _ = run(connection, "backfill", chosen, rate=rate)
            looked_at, missing = job.looked_at, job.changed
    say(
        {"handler": name, "events": looked_at, "count": missing, "dry_run": dry_run},
        f"{say_deliveries(missing, dry_run=dry_run)} made for {name}; "
        f"{looked_at} events since {since:%Y-%m-%d %H:%M} looked at",
    )


def _count_missing(
    connection: Connection, name: str, provider: str | None, event: str | None, tenant: str | None, *, since: datetime
) -> tuple[int, int]:
    """Return how many events there are, and how many of them have no delivery."""
    looked_at = missing = 0
    with Console(stderr=True).status("looking for events") as status:
        for page in manual.backfill(
            connection,
            handler=name,
            provider=provider,
            event=event,
            tenant=tenant,
            since=since,
            until=datetime.now(UTC),
            dry_run=True,
        ):
            looked_at, missing = looked_at + page.events, missing + page.missing
            status.update(f"{looked_at} events looked at, {missing} without a delivery")
    return looked_at, missing
