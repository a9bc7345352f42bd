"""The commands `pipeline deliveries …`."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from uuid import UUID

import typer

from deploy.cli.arguments import DryRun, HandlerFilter, Limit, Since, TenantFilter, past
from deploy.cli.errors import CommandError
from deploy.cli.handlers import load_handlers
from deploy.cli.output import AsJson, emit
from deploy.cli.servers import database
from workers.registration import ANY
from workers.store import event_history, manual
from workers.store.manual import Lanes, Selection

if TYPE_CHECKING:
    from collections.abc import Iterable

app = typer.Typer(help="Deliveries: one event for one handler, until it succeeds or is dead.", no_args_is_help=True)

_READ_SECONDS: Final = 30
Ids = Annotated[list[UUID] | None, typer.Argument(metavar="[EVENT_ID]...", help="Only of these events.")]
Everything = Annotated[bool, typer.Option("--all", help="All of them, when nothing narrows the choice.")]


class State(StrEnum):
    """What `--state` takes."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


@app.command("list")
def list_(
    *,
    state: Annotated[
        list[State] | None, typer.Option(help="Only in this state; may be repeated. Default: open and dead.")
    ] = None,
    tenant: TenantFilter = None,
    handler: HandlerFilter = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List deliveries, those of the newest events first.

    Examples:
        pipeline deliveries list --state dead --tenant acme
    """
    with database(read_seconds=_READ_SECONDS) as connection:
        found = event_history.list_deliveries(
            connection,
            states=state or [*event_history.OPEN_STATES, "dead"],
            tenant=tenant,
            handler=handler,
            limit=limit,
        )
    emit(
        (asdict(it) for it in found),
        as_json=as_json,
        columns=["event_id", "tenant", "handler", "state", "attempt", "due_at", "finished_at", "last_error"],
    )


@app.command()
def retry(
    event_ids: Ids = None,
    *,
    tenant: TenantFilter = None,
    handler: HandlerFilter = None,
    since: Since = None,
    everything: Everything = False,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Cancelled deliveries instead of dead ones.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Put dead deliveries back: due at once, with all their attempts again.

    What was recorded of earlier attempts stays in the event's history.

    Examples:
        pipeline deliveries retry --handler acme.grant_access --since 2h --dry-run
        pipeline deliveries retry 0198c0de-0000-7000-8000-000000000000
    """
    selection = _select(event_ids, tenant, handler, since, everything=everything)
    state: Literal["dead", "cancelled"] = "cancelled" if cancelled else "dead"
    with database() as connection:
        batches: Iterable[Lanes]
        if dry_run:
            batches = [manual.preview_retry(connection, selection, state=state)]
        else:
            batches = manual.retry(connection, selection, state=state)
        _report(batches, "put back", dry_run=dry_run, as_json=as_json)


@app.command()
def cancel(
    event_ids: Ids = None,
    *,
    tenant: TenantFilter = None,
    handler: HandlerFilter = None,
    since: Since = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Cancel open deliveries; they can be put back with `deliveries retry --cancelled`.

    Of one that runs at this moment nothing is kept that it wrote through `delivery.connection`.

    Examples:
        pipeline deliveries cancel --tenant acme --handler acme.mail --dry-run
    """
    selection = _select(event_ids, tenant, handler, since, everything=everything)
    with database() as connection:
        batches = [manual.preview_cancel(connection, selection)] if dry_run else manual.cancel(connection, selection)
        _report(batches, "cancelled", dry_run=dry_run, as_json=as_json)


@app.command()
def backfill(
    name: Annotated[str, typer.Argument(metavar="HANDLER", help="Name of a handler of the modules in HANDLERS.")],
    *,
    since: Annotated[
        datetime, typer.Option(parser=past, metavar="TIME", help="Events received since then: 2h, 7d, or a date.")
    ],
    tenant: TenantFilter = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make the deliveries of a handler that was deployed later than its events came.

    HANDLERS must name its module here as for the workers.
    Events that have a delivery of it already, in whatever state, get no other.

    Examples:
        pipeline deliveries backfill acme.grant_access --since 7d --dry-run
    """
    handlers = load_handlers()
    known = handlers.get(name)
    if known is None:
        names = ", ".join(sorted(it.name for it in handlers)) or "none"
        raise CommandError(f"no handler {name!r} in the modules of HANDLERS; there are: {names}")
    if tenant is not None and known.tenant not in {ANY, tenant}:
        raise CommandError(f"{name} takes events of the tenant {known.tenant!r} only, not of {tenant!r}")
    looked_at = missing = 0
    with database() as connection:
        for page in manual.backfill(
            connection,
            handler=name,
            provider=_given(known.provider),
            event=_given(known.event),
            tenant=tenant or _given(known.tenant),
            since=since,
            until=datetime.now(UTC),
            dry_run=dry_run,
        ):
            looked_at += page.events
            missing += page.missing if dry_run else page.made
            if sys.stderr.isatty() and not as_json:
                print(f"\r{looked_at} events looked at, {missing} without a delivery", end="", file=sys.stderr)
    if sys.stderr.isatty() and not as_json:
        print(file=sys.stderr)
    row = {"handler": name, "events": looked_at, "count": missing, "dry_run": dry_run}
    if as_json:
        emit([row], as_json=True, columns=[])
    else:
        would = "would be " if dry_run else ""
        print(
            f"{_deliveries(missing)} {would}made for {name}; {looked_at} events since {since:%Y-%m-%d %H:%M} looked at"
        )


def _deliveries(count: int) -> str:
    return "1 delivery" if count == 1 else f"{count} deliveries"


def _given(filter_: str) -> str | None:
    return None if filter_ == ANY else filter_


def _select(
    event_ids: list[UUID] | None, tenant: str | None, handler: str | None, since: datetime | None, *, everything: bool
) -> Selection:
    """Return what is meant; everything only if that was said."""
    if not everything and not event_ids and tenant is None and handler is None and since is None:
        raise CommandError("which ones? give event ids, --tenant, --handler or --since, or --all for everything")
    return Selection(event_ids=event_ids or None, tenant=tenant, handler=handler, since=since)


def _report(batches: Iterable[Lanes], done: str, *, dry_run: bool, as_json: bool) -> None:
    """Print how many of each lane, when all batches are through; those that are stay so if one fails."""
    lanes: Lanes = Counter()
    try:
        for batch in batches:
            lanes.update(batch)
    finally:
        rows: list[dict[str, Any]] = [
            {"tenant": tenant, "handler": handler, "count": count, "dry_run": dry_run}
            for (tenant, handler), count in sorted(lanes.items())
        ]
        if as_json or rows:
            emit(rows, as_json=as_json, columns=["tenant", "handler", "count"])
        if not as_json:
            print(f"{_deliveries(lanes.total())} {'would be ' if dry_run else ''}{done}")
