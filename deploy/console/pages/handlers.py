"""Handlers: what they ask for, how they do, their limits and pauses."""

import time
from collections.abc import Collection
from typing import Final

import redis
from starlette.responses import Response

from deploy.console import inputs
from deploy.console.actions import Action, Done, Field, Plan
from deploy.console.pages.deliveries import say_count, submit
from deploy.console.rendering import command_line, counted
from deploy.console.rules import Rule
from deploy.console.visit import InputError, NotFoundError, Visit
from workers.live_workers import Live, read_live
from workers.registration import is_name
from workers.store import activity, catalogue, limits, pauses, tenants
from workers.store.jobs import Filter
from workers.store.limits import ANY

MINUTES: Final = 60
RENAME_SECONDS: Final = 20.0
"""For which a page moves open deliveries to the new name; the same form goes on with those that are left."""
NAME: Final = Field(name="handler", label="Handler", kind="fixed", required=True)
TENANT: Final = Field(name="tenant", label="Tenant", about="Only of this tenant; of all of them if empty.")
UNTIL: Final = Field(
    name="until", label="Until", about="30m, 2h, 7d, or a date or time (UTC); until somebody resumes it if empty."
)


def list_handlers(visit: Visit) -> Response:
    """Show the handlers that workers have announced, what they do, and which of them nobody runs."""
    live = live_workers(visit)
    return visit.page(
        "handlers",
        title="Handlers",
        handlers=catalogue.list_registered(visit.connection),
        live=True,
        running=None if live is None else live.handlers,
        activity={it.handler: it for it in activity.read_handlers(visit.connection, minutes=MINUTES)},
        minutes=MINUTES,
        paused={it.handler for it in pauses.list_pauses(visit.connection) if it.handler != ANY},
        limits=_limits(limits.list_limits(visit.connection)),
        command=command_line("handlers", "list"),
    )


def show_handler(visit: Visit) -> Response:
    """Show one handler."""
    name = _name(visit)
    known = {it.registration.name: it for it in catalogue.list_registered(visit.connection)}.get(name)
    if known is None and not catalogue.count_open(visit.connection, name):
        raise NotFoundError(f"no handler {name!r} is announced")
    live = live_workers(visit)
    held = pauses.list_pauses(visit.connection, handler=name)
    return visit.page(
        "handler",
        title=name,
        handler=known,
        name=name,
        live=True,
        workers=None
        if live is None
        else [it for it in live.workers if it.code_version]
        if name in live.handlers
        else [],
        activity=next(
            (it for it in activity.read_handlers(visit.connection, minutes=MINUTES) if it.handler == name), None
        ),
        minutes=activity.read_minutes(visit.connection, handler=name, minutes=MINUTES),
        pauses=[it for it in held if it.handler == name],
        limits=[it for it in limits.list_limits(visit.connection) if it.handler == name],
        command=command_line("handlers", "list"),
    )


def live_workers(visit: Visit) -> Live | None:
    """Return which workers live; None where Redis does not tell."""
    try:
        with visit.console.broker_breaker.asking():
            return read_live(visit.console.broker, visit.console.names)
    except redis.RedisError:
        return None


def _name(visit: Visit) -> str:
    return str(visit.request.path_params.get("handler") or visit.given("handler") or "")


def _limits(found: Collection[limits.Limit]) -> dict[str, list[limits.Limit]]:
    by_handler: dict[str, list[limits.Limit]] = {}
    for it in found:
        by_handler.setdefault(it.handler, []).append(it)
    return by_handler


def _require_known(visit: Visit, name: str) -> None:
    known = {it.registration.name for it in catalogue.list_registered(visit.connection)}
    if name not in known and not catalogue.count_open(visit.connection, name):
        raise NotFoundError(f"no handler {name!r} is announced; there are: {', '.join(sorted(known)) or 'none'}")


def _whose(tenant: str) -> str:
    return "all tenants" if tenant == ANY else f"the tenant {tenant}"


def _scope(visit: Visit) -> tuple[str, str, str | None]:
    """Return the handler, the tenant or "*", and whose right a change needs."""
    name, tenant = _name(visit), visit.given("tenant")
    return name, tenant or ANY, tenant


def _plan_pause(visit: Visit) -> Plan:
    name, tenant, owner = _scope(visit)
    _require_known(visit, name)
    inputs.future(visit, "until")
    end = f" until {visit.given('until')}" if visit.given("until") else ""
    return Plan(
        sentence=f"Start none of the deliveries of {name} for {_whose(tenant)}{end}.",
        details=("Events go on to be stored, and their deliveries wait. What runs goes on to its end.",),
        command=command_line(
            *("handlers", "pause", name), tenant=owner, until=visit.given("until"), reason=visit.given("why")
        ),
        tenant=owner,
    )


def _pause(visit: Visit) -> Done:
    name, tenant, _ = _scope(visit)
    returned = pauses.pause(visit.connection, handler=name, tenant=tenant, until=inputs.future(visit, "until"))
    return Done(said=f"{name} is paused for {_whose(tenant)}; taken back from the queue: {returned}")


def _plan_resume(visit: Visit) -> Plan:
    name, tenant, owner = _scope(visit)
    return Plan(
        sentence=f"Run {name} for {_whose(tenant)} again.",
        details=("A pause of it for one tenant, or of a tenant, is resumed by itself.",),
        command=command_line("handlers", "resume", name, tenant=owner, reason=visit.given("why")),
        tenant=owner,
    )


def _resume(visit: Visit) -> Done:
    name, tenant, _ = _scope(visit)
    was = pauses.resume(visit.connection, handler=name, tenant=tenant)
    return Done(
        said=f"{name} runs for {_whose(tenant)} again" if was else f"{name} was not paused for {_whose(tenant)}"
    )


def _limit_of(visit: Visit) -> limits.Limit:
    name, tenant, _ = _scope(visit)
    return limits.Limit(
        handler=name, tenant=tenant, max_in_flight=inputs.integer(visit, "in_flight"), rate=inputs.rate(visit)
    )


def _plan_limit(visit: Visit) -> Plan:
    limit = _limit_of(visit)
    bounds = [] if limit.max_in_flight is None else [f"{limit.max_in_flight} in flight"]
    bounds += [] if limit.rate is None else [f"{limit.rate:g} a second"]
    owner = visit.given("tenant")
    if owner is not None:
        tenants.find_tenant(visit.connection, owner)
    if bounds:  # what is gone can be lifted
        _require_known(visit, limit.handler)
    return Plan(
        sentence=f"{limit.handler}, for {_whose(limit.tenant)}{'' if owner else ' together'}: "
        + (f"at most {' and '.join(bounds)}." if bounds else "no limit."),
        details=("Nothing is dropped: what is beyond a limit waits.",),
        command=command_line(
            *("handlers", "limit", limit.handler),
            in_flight=visit.given("in_flight"),
            rate=visit.given("rate"),
            tenant=owner,
            reason=visit.given("why"),
        ),
        tenant=owner,
    )


def _limit(visit: Visit) -> Done:
    limit = _limit_of(visit)
    limits.limit_handler(visit.connection, limit)
    return Done(said=f"the limit of {limit.handler} for {_whose(limit.tenant)} is set")


def _require_no_worker(visit: Visit, name: str) -> None:
    live = live_workers(visit)
    if live is None:
        raise InputError("Redis does not tell which workers live: try again when it answers")
    if name in live.handlers:
        raise InputError(f"{name} is run at this moment: deploy handler workers without it first")


def _plan_remove(visit: Visit) -> Plan:
    name = _name(visit)
    _require_known(visit, name)
    _require_no_worker(visit, name)
    found = say_count(visit, "cancel", Filter(handler=name), "open deliveries")
    return Plan(
        sentence=f"Take {name} out of the catalogue and cancel {found}.",
        details=("It gets no deliveries any more, until workers announce it again.",),
        command=command_line("handlers", "remove", name, reason=visit.given("why")),
    )


def _remove(visit: Visit) -> Done:
    name = _name(visit)
    with visit.connection.transaction():
        catalogue.remove(visit.connection, name)
        cancelling = submit(visit, "cancel", Filter(handler=name))
    return Done(said=f"{name} is removed; {cancelling.said} that cancels its open deliveries", to=cancelling.to)


def _plan_rename(visit: Visit) -> Plan:
    name, new = _name(visit), visit.given("new_name") or ""
    _require_known(visit, name)
    if not is_name(new):
        raise InputError(f"no handler can be named {new[:100]!r}: a name has letters, digits, _ and -, and a dot")
    return Plan(
        sentence=f"Give {name} the name {new}, with its open deliveries and its limits.",
        details=("Before or after the deployment that renames it in the code. What is finished keeps the old name.",),
        command=command_line("handlers", "rename", name, new, reason=visit.given("why")),
    )


def _rename(visit: Visit) -> Done:
    old, new = _name(visit), visit.given("new_name") or ""
    try:
        catalogue.rename(visit.connection, old, new)
    except KeyError:
        raise InputError(f"{old!r} is not announced, or {new!r} is a former name of a handler") from None
    moved, ends = 0, time.monotonic() + RENAME_SECONDS
    for batch in catalogue.rename_open(visit.connection, old, new):
        moved += batch[0]
        if time.monotonic() > ends:
            break
    left = catalogue.count_open(visit.connection, old)
    more = f"; {left} are still under the old one: rename it again in a moment" if left else ""
    return Done(said=f"{old} is {new} now, moved: {counted(moved, 'open deliveries')}{more}", to="/handlers")


RULES: Final = (
    Rule(method="GET", path="/handlers", role="viewer", page=list_handlers),
    Rule(method="GET", path="/handlers/{handler:path}", role="viewer", page=show_handler),
)
ACTIONS: Final = (
    Action(
        name="handler-pause", title="Pause the handler", fields=(NAME, TENANT, UNTIL), plan=_plan_pause, perform=_pause
    ),
    Action(
        name="handler-resume", title="Resume the handler", fields=(NAME, TENANT), plan=_plan_resume, perform=_resume
    ),
    Action(
        name="handler-limit",
        title="Limit the handler",
        fields=(
            NAME,
            TENANT,
            Field(name="in_flight", label="At most so many at once", kind="number", about="No limit if empty."),
            Field(name="rate", label="At most so many", about="10/s, 300/m or 5000/h; no limit if empty."),
        ),
        plan=_plan_limit,
        perform=_limit,
    ),
    Action(
        name="handler-rename",
        title="Rename the handler",
        role="admin",
        fields=(NAME, Field(name="new_name", label="New name", required=True)),
        plan=_plan_rename,
        perform=_rename,
    ),
    Action(
        name="handler-remove",
        title="Remove the handler",
        role="admin",
        fields=(NAME,),
        plan=_plan_remove,
        perform=_remove,
        is_dangerous=True,
    ),
)
