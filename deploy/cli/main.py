"""The command `pipeline`: all sub-commands in one place.

Guarantees: what a person did wrong, and servers that are away, end in one line and a status other than 0. Refuses
nothing itself. A module of `GROUPS` brings an `app`, one of `COMMANDS` a function of its name.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Final

import typer

from deploy.cli.env import env
from deploy.cli.errors import explain
from deploy.cli.migrate import migrate
from deploy.cli.up import up

app = typer.Typer(
    name="pipeline",
    help="Run and operate the webhook pipeline: the whole stack, tenants, endpoints, events and deliveries.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(up)
app.command()(migrate)
app.command()(env)

GROUPS: Final = ("tenants", "endpoints", "secrets", "events", "deliveries")
COMMANDS: Final = ("send", "stats", "keygen")

for _name in GROUPS:
    if find_spec(f"deploy.cli.{_name}"):
        app.add_typer(import_module(f"deploy.cli.{_name}").app, name=_name)
for _name in COMMANDS:
    if find_spec(f"deploy.cli.{_name}"):
        app.command(_name)(getattr(import_module(f"deploy.cli.{_name}"), _name))


def main() -> None:
    """Run the command of this process's arguments."""
    try:
        app()
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        print(f"pipeline: {line}", file=sys.stderr)
        sys.exit(1)
