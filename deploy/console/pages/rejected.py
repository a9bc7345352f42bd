"""Rejected events: for which reasons, how many, and parsing them again after a fix."""

from typing import Final

from starlette.responses import Response

from deploy.console.rendering import command_line
from deploy.console.rules import Rule
from deploy.console.visit import Visit
from workers.store import rejected
from workers.store.activity import received_at


def list_reasons(visit: Visit) -> Response:
    """Show the reasons, with how many events each has."""
    found = [(it, received_at(it.newest_id)) for it in rejected.list_reasons(visit.connection)]
    return visit.page(
        "rejected",
        title="Rejected",
        reasons=found,
        bound=rejected.REASON_BOUND,
        command=command_line("events", "list", state="rejected"),
        live=True,
    )


RULES: Final = (Rule(method="GET", path="/rejected", role="viewer", page=list_reasons),)
ACTIONS: Final = ()
