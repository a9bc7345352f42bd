"""Tenants: whose events these are, what they may send, what is done for them at once, and their settings."""

import json
from typing import Any, Final

from starlette.responses import Response

from deploy.cli.arguments import size
from deploy.console import inputs
from deploy.console.actions import Action, Done, Field, Plan
from deploy.console.pages.handlers import UNTIL, live_workers
from deploy.console.publishing import publish
from deploy.console.rendering import command_line, url
from deploy.console.rules import Rule
from deploy.console.visit import InputError, Visit
from shared import registry
from workers.store import activity, pauses, tenants
from workers.store.stats import read_load

SHOWN: Final = 100
MINUTES: Final = 60
NAME: Final = Field(name="tenant", label="Tenant", kind="fixed", required=True)


def list_tenants(visit: Visit) -> Response:
    """Show tenants by name, a page at a time."""
    prefix, after = visit.given("name"), visit.given("after")
    found = tenants.list_tenants(visit.connection, prefix=prefix, after=after, limit=SHOWN + 1)
    shown = found[:SHOWN]
    return visit.page(
        "tenants",
        title="Tenants",
        tenants=shown,
        next=url("/tenants", name=prefix, after=shown[-1].name) if len(found) > SHOWN else None,
        first=url("/tenants", name=prefix) if after else None,
        command=command_line("tenants", "list"),
    )


def show_tenant(visit: Visit) -> Response:
    """Show one tenant: its work, what that waits for, its limits, endpoints and settings."""
    name = str(visit.request.path_params["tenant"])
    found = tenants.find_tenant(visit.connection, name)
    (work,) = read_load(visit.connection, tenant=name)
    live = live_workers(visit)
    return visit.page(
        "tenant",
        title=name,
        tenant=found,
        work=work,
        waits_for=work.waits_for(None if live is None else live.handlers),
        pauses=pauses.list_pauses(visit.connection, tenant=name),
        endpoints=tenants.list_endpoints(visit.connection, tenant=name),
        minutes=activity.read_minutes(visit.connection, tenant=name, minutes=MINUTES),
        settings_of=[(key, json.dumps(value, ensure_ascii=False)) for key, value in found.settings.items()],
        command=command_line("tenants", "show", name),
        live=True,
    )


def _name(visit: Visit) -> str:
    return visit.given("tenant") or ""


def _add(visit: Visit) -> Done:
    name = _name(visit)
    tenants.add_tenant(visit.connection, name, max_in_flight=inputs.integer(visit, "in_flight"))
    return Done(said=f"added the tenant {name}; next: add an endpoint", to=f"/tenants/{name}")


def _plan_add(visit: Visit) -> Plan:
    inputs.integer(visit, "in_flight")
    name = _name(visit)
    command = command_line("tenants", "add", name, in_flight=visit.given("in_flight"), reason=visit.given("why"))
    return Plan(sentence=f"Add the tenant {name}.", command=command)


def _plan_pause(visit: Visit) -> Plan:
    name = tenants.find_tenant(visit.connection, _name(visit)).name
    inputs.future(visit, "until")
    end = f" until {visit.given('until')}" if visit.given("until") else ""
    return Plan(
        sentence=f"Start none of the deliveries of {name}{end}.",
        details=("Its events are still accepted and stored. What runs goes on to its end.",),
        command=command_line("tenants", "pause", name, until=visit.given("until"), reason=visit.given("why")),
        tenant=name,
    )


def _pause(visit: Visit) -> Done:
    returned = pauses.pause(visit.connection, tenant=_name(visit), until=inputs.future(visit, "until"))
    return Done(said=f"{_name(visit)} is paused; taken back from the queue: {returned}")


def _plan_resume(visit: Visit) -> Plan:
    name = tenants.find_tenant(visit.connection, _name(visit)).name
    command = command_line("tenants", "resume", name, reason=visit.given("why"))
    return Plan(
        sentence=f"Run the handlers of {name} again; those that are paused by themselves stay so.",
        command=command,
        tenant=name,
    )


def _resume(visit: Visit) -> Done:
    was = pauses.resume(visit.connection, tenant=_name(visit))
    return Done(said=f"{_name(visit)} is resumed" if was else f"{_name(visit)} was not paused")


def _limits(visit: Visit) -> dict[str, Any]:
    return {
        "max_in_flight": inputs.integer(visit, "in_flight"),
        "weight": inputs.integer(visit, "weight", at_most=1000),
        "rate": inputs.rate(visit),
        "burst": inputs.integer(visit, "burst"),
        "inbox_bytes": inputs.read(visit, "inbox", size),
    }


def _plan_limit(visit: Visit) -> Plan:
    name = tenants.find_tenant(visit.connection, _name(visit)).name
    _limits(visit)
    given = {it: visit.given(it) for it in ("in_flight", "weight", "rate", "burst", "inbox")}
    words = ", ".join(f"{it.replace('_', ' ')} {text}" for it, text in given.items() if text)
    return Plan(
        sentence=f"The limits of {name} are: {words}; what is not named is lifted."
        if words
        else f"Lift all limits of {name}.",
        details=("Nothing that was acknowledged is ever dropped by a limit.",),
        command=command_line("tenants", "limit", name, **given, lift=True, reason=visit.given("why")),
        tenant=name,
    )


def _limit(visit: Visit) -> Done:
    name, values = _name(visit), _limits(visit)
    with visit.connection.transaction():
        tenants.limit_tenant(visit.connection, name, values["max_in_flight"])
        tenants.weigh_tenant(visit.connection, name, values["weight"] or 1)
        ingest = registry.Limits(rate=values["rate"], burst=values["burst"], inbox_bytes=values["inbox_bytes"])
        tenants.limit_ingest(visit.connection, name, ingest)
    return Done(said=f"the limits of {name} are set{publish(visit)}")


def _setting(visit: Visit) -> tuple[str, Any]:
    key, text = visit.given("key") or "", visit.given("value")
    if text is None:
        return key, None
    try:
        return key, json.loads(text, parse_constant=lambda _: text)
    except RecursionError:
        raise InputError("the value is nested too deep: give it as a text") from None
    except ValueError:
        return key, text


def _plan_set(visit: Visit) -> Plan:
    name = tenants.find_tenant(visit.connection, _name(visit)).name
    key, value = _setting(visit)
    takes_away = visit.given("unset") is not None
    if takes_away == (visit.given("value") is not None):
        raise InputError("give a value, or take the setting away")
    words = [] if takes_away else [f"{key}={visit.given('value')}"]
    return Plan(
        sentence=f"Take the setting {key} of {name} away."
        if takes_away
        else f"Set {key} of {name} to {json.dumps(value)}.",
        details=("Handlers are told it as delivery.settings, with the next delivery. It is no place for secrets.",),
        command=command_line(
            "tenants", "set", name, *words, unset=key if takes_away else None, reason=visit.given("why")
        ),
        tenant=name,
    )


def _set(visit: Visit) -> Done:
    key, value = _setting(visit)
    takes_away = visit.given("unset") is not None
    tenants.set_settings(
        visit.connection, _name(visit), {} if takes_away else {key: value}, unset=[key] if takes_away else []
    )
    return Done(said=f"{key} of {_name(visit)} is {'taken away' if takes_away else 'set'}")


RULES: Final = (
    Rule(method="GET", path="/tenants", role="viewer", page=list_tenants),
    Rule(method="GET", path="/tenants/{tenant}", role="viewer", page=show_tenant),
)
IN_FLIGHT: Final = Field(
    name="in_flight",
    label="Deliveries queued and running at once, at most",
    kind="number",
    about="Any number if empty.",
)
ACTIONS: Final = (
    Action(
        name="tenant-add",
        title="Add a tenant",
        role="admin",
        fields=(
            Field(
                name="tenant",
                label="Name",
                about="A part of its URLs: lower-case letters, digits, - and _.",
                required=True,
            ),
            IN_FLIGHT,
        ),
        plan=_plan_add,
        perform=_add,
    ),
    Action(name="tenant-pause", title="Pause the tenant", fields=(NAME, UNTIL), plan=_plan_pause, perform=_pause),
    Action(name="tenant-resume", title="Resume the tenant", fields=(NAME,), plan=_plan_resume, perform=_resume),
    Action(
        name="tenant-limit",
        title="Set the limits",
        fields=(
            NAME,
            IN_FLIGHT,
            Field(name="weight", label="Deliveries in each round of turns", kind="number", about="1 if empty."),
            Field(
                name="rate", label="Events that its providers may send", about="100/s or 3000/m; any number if empty."
            ),
            Field(name="burst", label="Events at once, whatever the rate", kind="number"),
            Field(name="inbox", label="Share of the inbox beside others", about="100MB; all of it if empty."),
        ),
        plan=_plan_limit,
        perform=_limit,
    ),
    Action(
        name="tenant-set",
        title="Change a setting",
        fields=(
            NAME,
            Field(name="key", label="Setting", required=True),
            Field(name="value", label="Value", about="JSON, or else a text."),
            Field(name="unset", label="Take it away", kind="checkbox"),
        ),
        plan=_plan_set,
        perform=_set,
    ),
)
