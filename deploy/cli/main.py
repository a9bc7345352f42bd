"""The command `pipeline`: all sub-commands in one place.

A group of commands is a module with an `app`, a single command is a function. What a person did wrong, and servers that
are away, end a command with one line and a status other than 0.
"""

import sys
from typing import Final

import typer

from deploy.cli import (
    alerts,
    audit,
    console,
    deliveries,
    endpoints,
    events,
    handlers,
    incidents,
    jobs,
    secrets,
    tenants,
)
from deploy.cli.doctor import doctor
from deploy.cli.errors import explain
from deploy.cli.health import health
from deploy.cli.output import command
from deploy.cli.reconcile import reconcile
from deploy.cli.rename import rename
from deploy.cli.send import send
from deploy.cli.setup import adopt, env, grants, keygen, migrate
from deploy.cli.stats import stats
from deploy.cli.up import up
from deploy.cli.verify import verify

app: Final = typer.Typer(
    name="pipeline",
    help="Run and operate the webhook pipeline: the whole stack, tenants, endpoints, events and deliveries.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for plain in (up, health):
    app.command()(plain)
for function in (migrate, grants, adopt, rename, env, send, verify, reconcile, stats, doctor, keygen):
    command(app)(function)
for group in (tenants, endpoints, secrets, events, deliveries, handlers, incidents, alerts, jobs, audit, console):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])


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
