"""The commands `pipeline incidents …`."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

import typer

from deploy.cli.arguments import DryRun, HandlerFilter, Limit, Rate, TenantFilter, duration
from deploy.cli.connections import database, person
from deploy.cli.errors import CommandError
from deploy.cli.handlers import load_events
from deploy.cli.jobs import change
from deploy.cli.jobs import reprocess as reprocess_events
from deploy.cli.output import command, emit, say, wants_json
from workers.housekeeping.incidents import group_dead, replayed
from workers.ingest.reprocess import reprocess
from workers.store import audit, incidents
from workers.store.catalogue import Catalogue
from workers.store.connect import Connection
from workers.store.rejected import Narrowed, list_rejected

app: Final = typer.Typer(
    help="Incidents: what failed for one cause, in one row; told of once, put back with one command.",
    no_args_is_help=True,
)
Id = Annotated[int, typer.Argument(metavar="INCIDENT", help="Number of the incident.")]
SHOWN_TENANTS: Final = 20
FOREVER: Final = timedelta(days=3650)


@command(app, "list")
def list_(
    *,
    state: Annotated[Literal["open", "resolved", "all"], typer.Option(help="Which ones.")] = "open",
    tenant: TenantFilter = None,
    handler: HandlerFilter = None,
    limit: Limit = 20,
) -> None:
    """List incidents, the latest first.

    `count`: dead deliveries, rejected events or refusals; `waiting`: deliveries that failed so and wait for another
    attempt.

    Examples:
        pipeline incidents list --tenant acme
        pipeline incidents list --state all --limit 100 --json
    """
    with database(read_only=True) as connection:
        found = incidents.list_incidents(
            connection, state=None if state == "all" else state, subject=handler, tenant=tenant, limit=limit
        )
    columns = ("id", "kind", "subject", "cause", "state", "count", "waiting", "tenants", "first_seen", "last_seen")
    emit(found, *columns)


@command(app)
def show(incident: Id) -> None:
    """Show one incident: its tenants, an error as it came, and the latest failures with a traceback.

    Examples:
        pipeline incidents show 7
    """
    with database(read_only=True) as connection:
        found = _read(connection, incident)
        found["tenants"] = incidents.list_tenants(connection, incident, limit=SHOWN_TENANTS)
        found["dead"] = incidents.count_dead(connection, incident)
        samples = incidents.list_samples(connection, found["samples"], handler=found["subject"])
        found["samples"] = samples
    if wants_json():
        emit([found])
        return
    print(f"incident {incident}: {found['kind']} of {found['subject']}, {found['state']}{_about_state(found)}")
    print(f"cause      {found['cause']}")
    print(f"such as    {found['example']}")
    print(f"seen       {_moment(found['first_seen'])} to {_moment(found['last_seen'])}")
    waiting = f", {found['waiting']} wait for another attempt" if found["waiting"] else ""
    dead = f"; {found['dead']} are dead now" if found["kind"] == "failure" else ""
    print(f"count      {found['count']}{waiting}{dead}")
    more = found["tenant_count"] - len(found["tenants"])
    tenants = ", ".join(f"{it['tenant']} ({it['count']})" for it in found["tenants"])
    print(f"tenants    {tenants}{f' and {more} more' if more > 0 else ''}")
    for it in samples:
        print(f"sample     {it['event_id']} {it['tenant'] or '(no longer stored)'} {it['error'] or ''}".rstrip())
    traceback = next((it["traceback"] for it in samples if it["traceback"]), None)
    if traceback:
        print(f"\n{traceback.rstrip()}")
    if found["kind"] == "failure" and found["dead"]:
        print(f"\nwhen it is mended: pipeline incidents replay {incident}")


@command(app, changes=True)
def replay(incident: Id, *, rate: Rate = None, dry_run: DryRun = False) -> None:
    """Put back the dead deliveries of an incident, or parse its rejected events again; nothing else is touched.

    Each delivery is due at once, with all its attempts again. It is a job: Ctrl-C leaves it running.

    Examples:
        pipeline incidents replay 7 --dry-run
        pipeline incidents replay 7 --reason "their API is back"
    """
    with database() as connection:
        found = _read(connection, incident)
        if found["kind"] == "failure":
            group_dead(connection)  # what died in the last seconds belongs to it too
            found = _read(connection, incident)
        if found["kind"] != "refused" and not dry_run:
            audit.record(connection, what="incident replayed", target=str(incident))
    if found["kind"] == "failure":
        _, chosen = replayed(found)
        change("retry", chosen, "put back", rate=rate, dry_run=dry_run)
    elif found["kind"] == "rejected":
        load_events()
        if dry_run:
            _try_again(found)
        else:
            reprocess_events(replayed(found)[1], rate=rate)
    else:
        raise CommandError(
            f"incident {incident} is about refused requests, which nobody stored: the provider must send them again"
        )


def _try_again(found: dict[str, Any]) -> None:
    """Print what would come of its rejected events."""
    with database() as connection:
        _, chosen = replayed(found)
        narrowed = Narrowed(reason=chosen.reason, provider=chosen.provider, tenant=chosen.tenant)
        ids = list_rejected(connection, narrowed)
        outcomes = [*reprocess(connection, catalogue=Catalogue(), event_ids=ids, dry_run=True)]
    emit((asdict(it) | {"dry_run": True} for it in outcomes), "event_id", "outcome", "reason", "handlers", "same_as")


@command(app, changes=True)
def resolve(incident: Id) -> None:
    """Say that an incident is over; it opens again with the next failure of its cause.

    Without this it is over when its cause was not seen for a while and, for a handler, something succeeded since.
    """
    with database() as connection, connection.transaction():
        incidents.lock(connection)
        _read(connection, incident)
        if incidents.resolve(connection, incident, who=person()):
            audit.record(connection, what="incident resolved", target=str(incident))
            say({"id": incident, "state": "resolved"}, f"incident {incident} is resolved")
        else:
            say({"id": incident, "state": "resolved"}, f"incident {incident} was resolved already")


@command(app, changes=True)
def mute(
    incident: Id,
    *,
    for_: Annotated[
        timedelta | None,
        typer.Option("--for", parser=duration, metavar="TIME", help="Such as 4h; for good if not given."),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Tell of it again.")] = False,
) -> None:
    """Send no more alerts of an incident; it is counted on.

    Examples:
        pipeline incidents mute 7 --for 4h --reason "known, their API is down until noon"
    """
    until = None if undo else datetime.now(UTC) + (for_ or FOREVER)
    with database() as connection, connection.transaction():
        _read(connection, incident)
        incidents.mute(connection, incident, until=until)
        after = {"muted_until": None if until is None else until.isoformat()}
        audit.record(connection, what="incident muted", target=str(incident), after=after)
    about = "is told of again" if until is None else f"is muted until {_moment(until)}" if for_ else "is muted"
    say({"id": incident, "muted_until": until}, f"incident {incident} {about}")


def _read(connection: Connection, incident: int) -> dict[str, Any]:
    found = incidents.read_incident(connection, incident)
    if found is None:
        raise CommandError(f"there is no incident {incident}; `pipeline incidents list --state all` shows them")
    return found


def _about_state(found: dict[str, Any]) -> str:
    muted = found["muted_until"]
    about = f", muted until {_moment(muted)}" if muted and muted > datetime.now(UTC) else ""
    if found["reopened"]:
        about += f", came back {found['reopened']} times"
    if found["state"] == "resolved":
        about += f" {_moment(found['resolved_at'])} by {found['resolved_by'] or 'quiet'}"
    return about


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
