"""Reconciling: ids that a provider says it has sent, against what came."""

from typing import Final

from starlette.responses import Response

from deploy.console import inputs
from deploy.console.rendering import command_line
from deploy.console.rules import Rule
from deploy.console.visit import InputError, Visit
from deploy.reconciliation import Compared, ListError, collect, compare
from workers.store import tenants

MOST_EVENTS: Final = 100_000
"""Events that a page compares; the command compares any number."""
MOST_ROWS: Final = 1000
NAMES: Final = ("tenant", "provider", "type", "since", "until")


def show(visit: Visit) -> Response:
    """Show the form into which a list is pasted."""
    return _page(visit)


def reconcile(visit: Visit) -> Response:
    """Say what came of each id of a pasted list."""
    lines = visit.form.get("ids", "").splitlines()
    try:
        listed, repeated = collect((number, it.strip()) for number, it in enumerate(lines, 1) if it.strip())
        tenant = tenants.find_tenant(visit.connection, visit.given("tenant") or "").name
        since, until = inputs.past(visit, "since"), inputs.past(visit, "until")
        narrowed = {name: visit.given(name) for name in ("provider", "type")}
        compared = compare(
            visit.connection, listed, tenant=tenant, since=since, until=until, most=MOST_EVENTS, **narrowed
        )
    except (ListError, InputError) as error:
        return _page(visit, problem=str(error), status=400)
    return _page(visit, compared=compared, told=list(compared.sum_up(repeated=repeated)))


def _page(
    visit: Visit,
    *,
    compared: Compared | None = None,
    told: list[str] | None = None,
    problem: str = "",
    status: int = 200,
) -> Response:
    given = {name: visit.given(name) for name in NAMES}
    rows = compared.rows() if compared else []
    return visit.page(
        "reconcile",
        title="Reconcile",
        status=status,
        given=given,
        ids=visit.form.get("ids", ""),
        rows=rows[:MOST_ROWS],
        more=len(rows) - MOST_ROWS,
        compared=compared,
        told=told or [],
        problem=problem,
        command=command_line("reconcile", "FILE", **given | {"tenant": given["tenant"] or "TENANT"}),
    )


RULES: Final = (
    Rule(method="GET", path="/reconcile", role="viewer", page=show),
    Rule(method="POST", path="/reconcile", role="viewer", page=reconcile),
)
ACTIONS: Final = ()
