"""Failures: incidents, which stand for all that failed for one cause; and what to do with one of them."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from starlette.responses import Response

from deploy.cli.arguments import duration
from deploy.console import inputs
from deploy.console.actions import Action, Done, Field, Plan
from deploy.console.pages.deliveries import RATE, say_count, submit
from deploy.console.rendering import command_line
from deploy.console.rules import Rule
from deploy.console.visit import InputError, NotFoundError, Visit
from workers.housekeeping.incidents import group_dead, replayed
from workers.store import activity, audit, incidents

SHOWN: Final = 100
SHOWN_TENANTS: Final = 50
FOREVER: Final = timedelta(days=3650)
STATES: Final = ("open", "resolved", "all")
ID: Final = Field(name="id", label="Incident", kind="fixed", required=True)


def list_incidents(visit: Visit) -> Response:
    """Show incidents, open ones and the latest first."""
    state = visit.given("state") or "open"
    if state not in STATES:
        raise InputError(f"no incident is {state[:20]!r}")
    tenant, handler = visit.given("tenant"), visit.given("handler")
    found = incidents.list_incidents(
        visit.connection, state=None if state == "all" else state, subject=handler, tenant=tenant, limit=SHOWN
    )
    command = command_line("incidents", "list", state=visit.given("state"), tenant=tenant, handler=handler)
    return visit.page(
        "failures",
        title="Failures",
        incidents=found,
        hours=activity.read_incident_hours(visit.connection, [it["id"] for it in found]),
        state=state,
        states=STATES,
        command=command,
        live=True,
        now=datetime.now(UTC),
    )


def show_incident(visit: Visit) -> Response:
    """Show one incident: its tenants, an error as it came, and the latest failures with a traceback."""
    found = read(visit)
    number = found["id"]
    return visit.page(
        "failure",
        title=f"Incident {number}",
        incident=found,
        hours=activity.read_incident_hours(visit.connection, [number])[number],
        tenants=incidents.list_tenants(visit.connection, number, limit=SHOWN_TENANTS),
        dead=incidents.count_dead(visit.connection, number) if found["kind"] == "failure" else 0,
        dead_bound=incidents.DEAD_BOUND,
        samples=incidents.list_samples(visit.connection, found["samples"], handler=found["subject"]),
        command=command_line("incidents", "show", str(number)),
        live=True,
        now=datetime.now(UTC),
        owner=_owner(found),
    )


def read(visit: Visit) -> dict[str, Any]:
    """Return the incident that the address or the form names. Raises NotFoundError."""
    number = inputs.identity(visit)
    found = incidents.read_incident(visit.connection, number)
    if found is None:
        raise NotFoundError(f"there is no incident {number}")
    return found


def _owner(incident: dict[str, Any]) -> str | None:
    """Return whose incident it is; None if it is that of several tenants."""
    return incident["tenants"][0] if incident["tenant_count"] == 1 else None


def _plan_replay(visit: Visit) -> Plan:
    found = read(visit)
    options = {"rate": visit.given("rate"), "reason": visit.given("why")}
    command = command_line("incidents", "replay", str(found["id"]), **options)
    if found["kind"] == "refused":
        return Plan(
            sentence=f"Incident {found['id']} is about refused requests.",
            command=command_line("verify", f"{found['subject']}"),
            tenant=_owner(found),
            refusal="Nobody stored them: the provider must send them again.",
        )
    inputs.rate(visit)
    kind, chosen = replayed(found)
    counted = say_count(visit, kind, chosen, "dead deliveries" if kind == "retry" else "rejected events")
    about = f"{counted} of incident {found['id']} ({found['subject']}: {found['cause']})"
    return Plan(
        sentence=f"Put {about} back: due at once, with all attempts again."
        if kind == "retry"
        else f"Parse {about} again.",
        details=("Nothing else is touched.",),
        command=command,
        tenant=_owner(found),
    )


def _replay(visit: Visit) -> Done:
    if read(visit)["kind"] == "failure":
        group_dead(visit.connection)  # what died in the last seconds belongs to it too
    found = read(visit)
    visit.require("operator", _owner(found))  # it may have become that of several tenants
    with visit.connection.transaction():
        audit.record(visit.connection, what="incident replayed", target=str(found["id"]))
        return submit(visit, *replayed(found))


def _plan_resolve(visit: Visit) -> Plan:
    found = read(visit)
    return Plan(
        sentence=f"Say that incident {found['id']} ({found['subject']}: {found['cause']}) is over.",
        details=("It opens again with the next failure of its cause.",),
        command=command_line("incidents", "resolve", str(found["id"]), reason=visit.given("why")),
        tenant=_owner(found),
    )


def _resolve(visit: Visit) -> Done:
    number = inputs.identity(visit)
    with visit.connection.transaction():
        incidents.lock(visit.connection)
        was_open = incidents.resolve(visit.connection, number, who=visit.person.name)
        if was_open:
            audit.record(visit.connection, what="incident resolved", target=str(number))
    return Done(said=f"incident {number} is resolved" if was_open else f"incident {number} was resolved already")


def _plan_mute(visit: Visit) -> Plan:
    found = read(visit)
    span = inputs.read(visit, "for", duration)
    words = f"for {visit.given('for')}" if span else "for good"
    return Plan(
        sentence=f"Send no more alerts of incident {found['id']} ({found['subject']}: {found['cause']}), {words}.",
        details=("It is counted on.",),
        command=command_line("incidents", "mute", str(found["id"]), for_=visit.given("for"), reason=visit.given("why")),
        tenant=_owner(found),
    )


def _plan_unmute(visit: Visit) -> Plan:
    found = read(visit)
    return Plan(
        sentence=f"Tell of incident {found['id']} ({found['subject']}: {found['cause']}) again.",
        command=command_line("incidents", "mute", str(found["id"]), undo=True, reason=visit.given("why")),
        tenant=_owner(found),
    )


def _mute(visit: Visit, until: datetime | None) -> Done:
    number = inputs.identity(visit)
    with visit.connection.transaction():
        incidents.mute(visit.connection, number, until=until)
        after = {"muted_until": None if until is None else until.isoformat()}
        audit.record(visit.connection, what="incident muted", target=str(number), after=after)
    return Done(said=f"incident {number} is " + ("told of again" if until is None else "muted"))


RULES: Final = (
    Rule(method="GET", path="/failures", role="viewer", page=list_incidents),
    Rule(method="GET", path="/failures/{id}", role="viewer", page=show_incident),
)
ACTIONS: Final = (
    Action(name="replay", title="Replay the incident", fields=(ID, RATE), plan=_plan_replay, perform=_replay),
    Action(name="resolve", title="Resolve the incident", fields=(ID,), plan=_plan_resolve, perform=_resolve),
    Action(
        name="mute",
        title="Mute the incident",
        fields=(ID, Field(name="for", label="For how long", about="4h or 2d; for good if empty.")),
        plan=_plan_mute,
        perform=lambda visit: _mute(visit, datetime.now(UTC) + (inputs.read(visit, "for", duration) or FOREVER)),
    ),
    Action(
        name="unmute",
        title="Tell of the incident again",
        fields=(ID,),
        plan=_plan_unmute,
        perform=lambda visit: _mute(visit, None),
    ),
)
