"""The command `pipeline migrate`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from deploy.cli.env import find_context
from deploy.cli.output import AsJson, emit
from workers.store.connect import connect
from workers.store.migrate import migrate as apply
from workers.store.partitions import ensure_partitions


def migrate(
    *,
    phase: Annotated[
        Literal["pre", "post"] | None,
        typer.Option(help="Only what goes before (pre) or after (post) a deployment of services."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring the database's tables up to this version.

    Makes the partitions of the coming days, too. Safe to run at any time and any number of times; `pre` before new
    services start, `post` when no old one is left.
    """
    with connect(find_context().database_url, name="pipeline migrate", lease_seconds=3600) as connection:
        names = apply(connection, phase)
        ensure_partitions(connection)
    if as_json:
        emit(({"applied": name} for name in names), as_json=True, columns=[])
        return
    for name in names:
        print(f"applied {name}")
    if not names:
        print("nothing to do: the database is up to date")
