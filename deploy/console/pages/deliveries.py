"""Deliveries: one event for one handler; lists of them, and changes of all that match, each a job."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, get_args
from uuid import UUID

from starlette.responses import Response

from deploy.console import inputs
from deploy.console.actions import Action, Done, Field, Plan
from deploy.console.rendering import command_line, counted, url
from deploy.console.rules import Rule
from deploy.console.visit import InputError, NotFoundError, Visit, local_path
from workers.housekeeping.jobs import count
from workers.store import catalogue, event_history, jobs, manual
from workers.store.connect import TIMED_OUT, bounded
from workers.store.jobs import Filter, Kind
from workers.store.limits import ANY

SHOWN: Final = 100
COUNT_SECONDS: Final = 0.15
"""For which a confirmation counts; a job counts on."""
COUNT_BOUND: Final = 10_000
"""Where it stops to count."""
OpenState = Literal["pending", "queued", "running"]
TIMES: Final = "30m, 2h, 7d, or a date or time (UTC)"

EVENTS: Final = Field(name="events", label="Ids of events", kind="lines", about="Apart by blanks or lines.")
TENANT: Final = Field(name="tenant", label="Tenant")
HANDLER: Final = Field(name="handler", label="Handler")
SINCE: Final = Field(name="since", label="Received since", about=TIMES, kind="time")
UNTIL: Final = Field(name="until", label="Received before", about=TIMES, kind="time")
PROVIDER: Final = Field(name="provider", label="Provider")
TYPE: Final = Field(name="type", label="Type of event")
ERROR: Final = Field(name="error", label="Last error contains")
RATE: Final = Field(name="rate", label="At most so many", about="10/s, 300/m or 5000/h; as fast as it goes if empty.")
ALL: Final = Field(name="all", label="All of them, when nothing else narrows the choice", kind="checkbox")


def list_deliveries(visit: Visit) -> Response:
    """Show deliveries of some states, those of the newest events first."""
    states = [*event_history.OPEN_STATES, *event_history.DONE_STATES]
    state, tenant, handler = (visit.given(it) for it in ("state", "tenant", "handler"))
    if state is not None and state not in states:
        raise InputError(f"no delivery is {state[:20]!r}")
    incident = inputs.integer(visit, "incident", at_most=inputs.LARGEST_ID)
    wanted = [state] if state else [*event_history.OPEN_STATES, "dead"]
    page: dict[str, Any] = {"limit": SHOWN + 1, "before": _before(visit)}
    if incident is not None:
        found = event_history.list_of_incident(visit.connection, incident, **page)
    else:
        found = event_history.list_deliveries(visit.connection, states=wanted, tenant=tenant, handler=handler, **page)
    shown = found[:SHOWN]
    older = f"{shown[-1].event_id} {shown[-1].handler}" if len(found) > SHOWN else None
    first = {name: value for name, value in visit.query.items() if name != "before"}
    return visit.page(
        "deliveries",
        title="Deliveries",
        deliveries=shown,
        incident=incident,
        states=states,
        older=url("/deliveries", first, before=older) if older else None,
        newest=url("/deliveries", first) if visit.given("before") else None,
        command=command_line("incidents", "show", str(incident))
        if incident
        else command_line("deliveries", "list", state=state, tenant=tenant, handler=handler),
        live=True,
    )


def _before(visit: Visit) -> tuple[UUID, str] | None:
    """Return event and handler of the last delivery of the page before. Raises InputError."""
    text = visit.given("before")
    if text is None:
        return None
    event_id, _, handler = text.partition(" ")
    try:
        return UUID(event_id), handler
    except ValueError:
        raise InputError("the address of this page is not complete: begin with the newest") from None


def to_filter(visit: Visit, **more: Any) -> Filter:
    """Return what the form narrows; everything may be meant only if that was said. Raises InputError."""
    given: dict[str, Any] = {name: visit.given(name) for name in ("tenant", "handler", "provider", "type", "error")}
    since, until = inputs.past(visit, "since"), inputs.past(visit, "until")
    chosen = Filter(event_ids=inputs.event_ids(visit), since=since, until=until, **given)
    if chosen == Filter() and visit.given("all") is None:
        raise InputError("which ones? give ids, a tenant, a time or another filter, or say that all are meant")
    return replace(chosen, **more)


def say_count(visit: Visit, kind: Kind, chosen: Filter, noun: str = "deliveries") -> str:
    """Return how many a change would take, in words: at least so many, where there are more than a page counts."""
    found, is_all = _count(visit, kind, chosen)
    if found is None:
        return f"more {noun} than a page can count (the job counts them)"
    return counted(found, noun) if is_all else f"at least {counted(found, noun)} (the job counts them)"


def submit(visit: Visit, kind: Kind, chosen: Filter) -> Done:
    """Submit the job, and go where it can be followed; from there a link leads back, with the filters."""
    found, is_all = _count(visit, kind, chosen)
    person, why, expected = visit.person.name, visit.given("why"), found if is_all else None
    job = jobs.submit(visit.connection, kind, chosen, who=person, why=why, rate=inputs.rate(visit), expected=expected)
    to = url(f"/jobs/{job}", back=local_path(visit.given("back"), default=""))
    return Done(said=f"job {job} was submitted", to=to)


def _count(visit: Visit, kind: Kind, chosen: Filter) -> tuple[int | None, bool]:
    """Return how many there are, as far as a page counts, and whether that is all; None if it would take longer."""
    try:
        with bounded(visit.connection, COUNT_SECONDS):
            if kind in {"retry", "resend", "cancel"}:
                lanes = manual.count_lanes(visit.connection, kind, chosen, most=COUNT_BOUND)
                return lanes.total(), lanes.total() < COUNT_BOUND
            before = manual.now(visit.connection)
            found = count(visit.connection, kind, chosen, before=before, seconds=COUNT_SECONDS)
            return found, found is not None
    except TIMED_OUT:
        return None, False


def of_its_tenant(visit: Visit, chosen: Filter) -> Filter:
    """Return the filter with the tenant of its events, if they are one's: no job takes more than its tenant says."""
    if chosen.tenant is not None or not chosen.event_ids:
        return chosen
    owners = event_history.read_tenants(visit.connection, chosen.event_ids)
    return replace(chosen, tenant=owners.pop()) if len(owners) == 1 else chosen


def command_of(*words: str, chosen: Filter, visit: Visit, **more: Any) -> str:
    """Return the command for a filter."""
    ids = [str(it) for it in chosen.event_ids or ()]
    given = {name: visit.given(name) for name in ("tenant", "since", "until", "provider", "type")}
    return command_line(
        *words,
        *ids,
        **given,
        **more,
        all=visit.given("all") is not None,
        rate=visit.given("rate"),
        reason=visit.given("why"),
    )


def _changes(
    name: Kind,
    title: str,
    *,
    sentence: str,
    detail: str,
    fields: Sequence[Field],
    filter_of: Callable[[Visit], Filter],
) -> Action:
    def plan(visit: Visit) -> Plan:
        chosen = filter_of(visit)
        inputs.rate(visit)
        how_many = say_count(visit, name, chosen)
        options: dict[str, Any] = {"error": chosen.error}
        words = ["deliveries", name]
        if name == "resend":
            words, options = [*words, chosen.handler or ""], {}
        else:
            options["handler"] = chosen.handler
        if name == "retry":
            options["cancelled"] = chosen.state == "cancelled"
        if name == "cancel":
            options["state"] = chosen.state
        return Plan(
            sentence=sentence.format(counted=how_many),
            details=(detail,),
            command=command_of(*words, chosen=chosen, visit=visit, **options),
            tenant=chosen.tenant,
        )

    return Action(
        name=name,
        title=title,
        fields=fields,
        plan=plan,
        perform=lambda visit: submit(visit, name, filter_of(visit)),
        is_counted=True,
        is_dangerous=name == "cancel",
    )


def _retry_filter(visit: Visit) -> Filter:
    return of_its_tenant(visit, to_filter(visit, state="cancelled" if visit.given("cancelled") else "dead"))


def _resend_filter(visit: Visit) -> Filter:
    handler = visit.given("handler")
    if handler is None:
        raise InputError("which handler? one at a time is run again")
    chosen = replace(to_filter(visit), error=None)
    if visit.given("all") is None and chosen == Filter(handler=handler):
        raise InputError("which ones? give ids, a tenant or a time, or say that all are meant")
    return of_its_tenant(visit, chosen)


def _cancel_filter(visit: Visit) -> Filter:
    return of_its_tenant(visit, to_filter(visit, state=visit.given("state")))


def _backfill_filter(visit: Visit) -> Filter:
    name, since, tenant = visit.given("handler") or "", inputs.past(visit, "since"), visit.given("tenant")
    known = catalogue.read_registrations(visit.connection).get(name)
    if known is None:
        raise NotFoundError(f"no worker has announced a handler {name!r}")
    if tenant is not None and known.tenant not in {ANY, tenant}:
        raise InputError(f"{name} takes events of the tenant {known.tenant!r} only, not of {tenant!r}")
    provider, event, whose = (None if it == ANY else it for it in (known.provider, known.event, tenant or known.tenant))
    return Filter(handler=name, provider=provider, type=event, tenant=whose, since=since)


def _plan_backfill(visit: Visit) -> Plan:
    chosen = _backfill_filter(visit)
    inputs.rate(visit)
    how_many = say_count(visit, "backfill", chosen, "events")
    given = {name: visit.given(name) for name in ("since", "tenant", "rate")}
    return Plan(
        sentence=f"Look at {how_many}, and make the delivery to {chosen.handler} of each that has none.",
        command=command_line("deliveries", "backfill", chosen.handler or "", **given, reason=visit.given("why")),
        tenant=chosen.tenant,
    )


RULES: Final = (Rule(method="GET", path="/deliveries", role="viewer", page=list_deliveries),)
ACTIONS: Final = (
    _changes(
        "retry",
        "Put dead deliveries back",
        sentence="Put {counted} back: due at once, with all their attempts again.",
        detail="What was recorded of earlier attempts stays in the history of the event.",
        fields=(
            *(TENANT, HANDLER, SINCE, UNTIL, PROVIDER, TYPE, ERROR, EVENTS),
            Field(name="cancelled", label="Cancelled deliveries instead of dead ones", kind="checkbox"),
            *(RATE, ALL),
        ),
        filter_of=_retry_filter,
    ),
    _changes(
        "resend",
        "Run a handler again",
        sentence="Run the handler once more for {counted} that it has handled with success.",
        detail="Its effects happen again, unless it tells by delivery.idempotency_key that they have happened.",
        fields=(replace(HANDLER, required=True), TENANT, SINCE, UNTIL, PROVIDER, TYPE, EVENTS, RATE, ALL),
        filter_of=_resend_filter,
    ),
    _changes(
        "cancel",
        "Cancel open deliveries",
        sentence="Cancel {counted}; they can be put back.",
        detail="Of one that runs at this moment nothing is kept that it wrote through delivery.connection.",
        fields=(
            *(TENANT, HANDLER, SINCE, UNTIL, PROVIDER, TYPE, ERROR, EVENTS),
            Field(name="state", label="Only in this state", kind="select", choices=get_args(OpenState)),
            *(RATE, ALL),
        ),
        filter_of=_cancel_filter,
    ),
    Action(
        name="backfill",
        title="Make missing deliveries",
        fields=(replace(HANDLER, required=True), replace(SINCE, required=True), TENANT, RATE),
        plan=_plan_backfill,
        perform=lambda visit: submit(visit, "backfill", _backfill_filter(visit)),
        is_counted=True,
    ),
)
