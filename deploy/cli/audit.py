"""The command `pipeline audit list`."""

import json
from typing import Annotated, Any, Final

import typer

from deploy.cli.arguments import Limit, Since
from deploy.cli.connections import database
from deploy.cli.output import command, emit
from workers.store import audit

app: Final = typer.Typer(help="Audit: who changed what, when and why; kept for ever.", no_args_is_help=True)


@command(app, "list")
def list_(
    target: Annotated[
        str | None, typer.Argument(metavar="[TARGET]", help="Only of this tenant, handler, event or job.")
    ] = None,
    *,
    who: Annotated[str | None, typer.Option(help="Only by this person.")] = None,
    what: Annotated[str | None, typer.Option(help="Only what begins so, such as endpoint_secrets.")] = None,
    since: Since = None,
    limit: Limit = 20,
) -> None:
    """List changes by people and jobs, newest first. No secret is ever shown.

    Examples:
        pipeline audit list acme --since 7d
        pipeline audit list --who alice --what endpoint_secrets
    """
    with database(read_only=True) as connection:
        found = audit.list_entries(connection, limit=limit, who=who, what=what, target=target, since=since)
    emit(found, "at", "who", "what", "target", "before", "after", "why", shown=_shown)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    texts = {key: None if row[key] is None else json.dumps(row[key]) for key in ("before", "after")}
    return row | texts
