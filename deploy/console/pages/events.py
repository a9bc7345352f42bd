"""Events: what was received, searched in every way that an index or a bound allows; and the story of one."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, get_args
from uuid import UUID

from starlette.responses import Response

from deploy.console import inputs
from deploy.console.actions import Action, Field, Plan, link
from deploy.console.pages.deliveries import RATE, of_its_tenant, say_count, submit
from deploy.console.rendering import command_line, pretty, url
from deploy.console.rules import Rule
from deploy.console.visit import InputError, NotFoundError, Visit
from deploy.event_timeline import timeline
from workers.store import audit, catalogue, event_history
from workers.store.event_history import EventHistory
from workers.store.event_search import EventQuery, Outcome, search_events
from workers.store.jobs import Filter

SHOWN: Final = 50
STATES: Final = ("accepted", "rejected")
MOST_SHOWN_BYTES: Final = 512 * 1024
"""Of a body on the page; all of it can be downloaded."""
SIGNATURE: Final = "signature"
FILTERS: Final = frozenset(it.name for it in fields(EventQuery))
OF_DELIVERIES: Final = frozenset({"tenant", "provider", "type", "handler", "since", "until"})
OF_REJECTED: Final = frozenset({"tenant", "provider", "reason"})
"""Filters of the list that a change of deliveries, or of rejected events, can be narrowed by."""
IMPLIED: Final = {"retry": ("outcome", "dead"), "cancel": ("outcome", "open")}
"""A filter that says no more than what the change takes anyway."""


def list_events(visit: Visit) -> Response:
    """Show events, newest first, a page at a time; pages stay as they are while new events come."""
    query = _query(visit)
    found = search_events(
        visit.connection, query, before=_cursor(visit, "before"), after=_cursor(visit, "after"), limit=SHOWN
    )
    kept = {name: value for name, value in visit.query.items() if name not in {"before", "after"}}
    events, goes_up = found.events, "after" in visit.query
    is_first = not {"before", "after"} & visit.query.keys()
    lowest = events[-1].id if events else None
    older = lowest if goes_up or found.has_more else None if found.bound is None else found.reached
    newer = None if is_first or not events or (goes_up and not found.has_more) else events[0].id
    given = {name: kept.get(name) for name in ("tenant", "state", "type", "since")}
    return visit.page(
        "events",
        title="Events",
        found=found,
        states=STATES,
        outcomes=get_args(Outcome),
        fields=[".".join(it) for it in visit.console.settings.search_fields],
        changes=_changes(visit, {name: it for name, it in kept.items() if name in FILTERS}, [it.id for it in events]),
        older=url("/events", kept, before=older) if older else None,
        newer=url("/events", kept, after=newer) if newer else None,
        newest=None if is_first else url("/events", kept),
        command=command_line("events", "list", **given),
        live=is_first,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What can be done with events of the list: with all that match, or with those of the page; `label` is a verb."""

    label: str
    address: str
    is_of_all: bool


def _changes(visit: Visit, given: dict[str, str], shown: Sequence[UUID]) -> list[Change]:
    """Return what can be done with all that match; where a change cannot be narrowed as the list is, with the page."""
    if given.get("state") == "rejected" or "reason" in given:
        offered = [("reprocess", "Parse again…", OF_REJECTED)]
        implied = {"state"} if "reason" in given else set()
    else:
        offered = [
            ("retry", "Put dead deliveries back…", OF_DELIVERIES),
            ("resend", "Run a handler again…", OF_DELIVERIES),
            ("cancel", "Cancel open deliveries…", OF_DELIVERIES),
        ]
        implied = {"state"}  # events that are accepted: others have no deliveries
    found = []
    for name, label, known in offered:
        filter_, value = IMPLIED.get(name, ("", ""))
        unknown = given.keys() - known - implied - ({filter_} if given.get(filter_) == value else set())
        if not unknown:
            values: dict[str, Any] = {it: given.get(it) for it in known}
        elif shown:
            values = {"events": " ".join(map(str, shown)), "handler": given.get("handler")}
        else:
            continue
        found.append(Change(label=label, address=link(name, visit.here, values), is_of_all=not unknown))
    return found


def show_event(visit: Visit) -> Response:
    """Show the story of an event; its body is masked."""
    return _show(visit, None)


def show_body(visit: Visit) -> Response:
    """Show the event with its body; it is in the audit who looked at it and why."""
    return _show(visit, _reveal(visit))


def download_body(visit: Visit) -> Response:
    """Return the body, byte for byte as it was received; it is in the audit who did and why."""
    body = _reveal(visit)
    name = f"{inputs.event_id(visit)}.body"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(body, media_type="application/octet-stream", headers=headers)


def _query(visit: Visit) -> EventQuery:
    """Return what the address narrows. Raises InputError."""
    state, outcome = visit.given("state"), visit.given("outcome")
    if state is not None and state not in STATES:
        raise InputError(f"no event is {state[:20]!r}")
    if outcome is not None and outcome not in get_args(Outcome):
        raise InputError(f"no event ends as {outcome[:20]!r}")
    field = _field(visit)
    values: dict[str, Any] = {
        name: visit.given(name) for name in ("tenant", "provider", "type", "subject", "reason", "handler", "text")
    }
    if (values["text"] is None) != (field is None):
        raise InputError("a text is looked for in a field: give both")
    if field is not None:
        visit.require("operator", values["tenant"])  # a search tells what is in a body
    return EventQuery(
        state=state,  # type: ignore[arg-type]
        outcome=outcome,  # type: ignore[arg-type]
        since=inputs.past(visit, "since"),
        until=inputs.past(visit, "until"),
        field=field,
        **values,
    )


def _field(visit: Visit) -> tuple[str, ...] | None:
    """Return the field that is searched: one that the setting declares, for a search reads bodies."""
    name = visit.given("field")
    if name is None:
        return None
    for it in visit.console.settings.search_fields:
        if ".".join(it) == name:
            return it
    raise InputError(f"{name[:60]!r} is no field of CONSOLE_SEARCH_FIELDS")


def _cursor(visit: Visit, name: str) -> UUID | None:
    ids = inputs.event_ids(visit, name)
    return ids[0] if ids else None


def find(visit: Visit) -> Response:
    """Go to the event of an id, or to those of a subject, whichever was typed."""
    text = visit.given("q") or ""
    try:
        event_id = event_history.find_event(visit.connection, UUID(text))
    except ValueError:
        return visit.go(url("/events", subject=text))
    if event_history.read_tenants(visit.connection, [event_id]):
        return visit.go(f"/events/{event_id}")
    return visit.go(url("/events", subject=text))


def _history(visit: Visit) -> EventHistory:
    asked = inputs.event_id(visit)
    found = event_history.read_history(visit.connection, event_history.find_event(visit.connection, asked))
    if found is None:
        raise NotFoundError(
            f"no event {asked} is stored: it may wait in the inbox still, or be older than RETENTION_DAYS"
        )
    return found


def _reveal(visit: Visit) -> bytes:
    event = _history(visit)
    visit.require("operator", event.tenant)
    if visit.given("why") is None:
        raise InputError("why? who looks at a body says the reason, which is kept in the audit")
    body = event_history.read_body(visit.connection, event.id)
    if body is None:
        raise NotFoundError(f"no event {event.id} is stored any more")
    audit.record(visit.connection, what="body shown", target=str(event.id))
    return body


def _show(visit: Visit, body: bytes | None) -> Response:
    history = _history(visit)
    shown = None if body is None else body[:MOST_SHOWN_BYTES]
    headers = history.headers.items() if isinstance(history.headers, dict) else history.headers
    return visit.page(
        "event",
        title="Event",
        event=history,
        asked=inputs.event_id(visit),
        lines=timeline(history),
        headers=[(name, "(masked)" if SIGNATURE in name.lower() else value) for name, value in headers],
        body=None if shown is None else shown.decode("utf-8", "backslashreplace"),
        pretty=pretty(shown) if shown and len(shown) == history.body_bytes else None,
        is_cut=body is not None and len(body) > MOST_SHOWN_BYTES,
        command=command_line("events", "show", str(history.id)),
        live=body is None,
    )


def _reprocess_filter(visit: Visit) -> Filter:
    ids = inputs.event_ids(visit)
    reason, provider, tenant = (visit.given(it) for it in ("reason", "provider", "tenant"))
    if ids is None and reason is None:
        raise InputError("which ones? give ids, or the reason for which they were rejected")
    return of_its_tenant(visit, Filter(event_ids=ids, reason=reason, provider=provider, tenant=tenant))


def _plan_reprocess(visit: Visit) -> Plan:
    chosen = _reprocess_filter(visit)
    if not catalogue.read_registrations(visit.connection):
        raise InputError("no handler is announced, so that none would get these events: start a handler worker first")
    counted = say_count(visit, "reprocess", chosen, "rejected events")
    ids = [str(it) for it in chosen.event_ids or ()]
    inputs.rate(visit)
    options = {name: visit.given(name) for name in ("reason", "tenant", "provider", "rate", "why")}
    return Plan(
        sentence=f"Parse {counted} again, and make the deliveries of those that are now accepted.",
        details=("Sending them again would not help: they would be judged as before, or be duplicates.",),
        command=command_line("events", "reprocess", *ids, **options),
        tenant=chosen.tenant,
    )


RULES: Final = (
    Rule(method="GET", path="/events", role="viewer", page=list_events),
    Rule(method="GET", path="/events/{event_id}", role="viewer", page=show_event),
    Rule(method="POST", path="/events/{event_id}/body", role="operator", page=show_body),
    Rule(method="POST", path="/events/{event_id}/download", role="operator", page=download_body),
    Rule(method="GET", path="/find", role="viewer", page=find),
)
ACTIONS: Final = (
    Action(
        name="reprocess",
        title="Parse rejected events again",
        fields=(
            Field(name="reason", label="Rejected for", about="A reason such as schema_mismatch."),
            Field(name="provider", label="Provider"),
            Field(name="tenant", label="Tenant"),
            Field(name="events", label="Ids of events", kind="lines", about="Apart by blanks or lines."),
            RATE,
        ),
        plan=_plan_reprocess,
        perform=lambda visit: submit(visit, "reprocess", _reprocess_filter(visit)),
        is_counted=True,
    ),
)
