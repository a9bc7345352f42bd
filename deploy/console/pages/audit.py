"""The audit: who changed what, when and why; and who looked at a body."""

from typing import Final

from starlette.responses import Response

from deploy.console import inputs
from deploy.console.rendering import command_line, url
from deploy.console.rules import Rule
from deploy.console.visit import Visit
from workers.store import audit

SHOWN: Final = 50


def list_entries(visit: Visit) -> Response:
    """Show entries, newest first, a page at a time."""
    narrowed = {name: visit.given(name) for name in ("who", "what", "target")}
    since, before = inputs.past(visit, "since"), inputs.integer(visit, "before", at_most=inputs.LARGEST_ID)
    found = audit.list_entries(visit.connection, limit=SHOWN + 1, since=since, before_id=before, **narrowed)
    shown = found[:SHOWN]
    older = url("/audit", {**visit.query, "before": shown[-1].id}) if len(found) > SHOWN else None
    newest = url("/audit", {**visit.query, "before": None}) if before else None
    command = command_line(
        *("audit", "list", *filter(None, [narrowed["target"]])),
        who=narrowed["who"],
        what=narrowed["what"],
        since=visit.given("since"),
    )
    return visit.page("audit", title="Audit", entries=shown, older=older, newer=newest, command=command)


RULES: Final = (Rule(method="GET", path="/audit", role="viewer", page=list_entries),)
ACTIONS: Final = ()
