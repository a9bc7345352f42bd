"""The command `pipeline`: all sub-commands in one place.

A group of commands is a module with an `app`, a single command is a function. What a person did wrong, and servers that
are away, end a command with one line and a status other than 0.
"""

from __future__ import annotations

import sys

import typer

from deploy.cli import deliveries, endpoints, events, handlers, secrets, tenants
from deploy.cli.errors import explain
from deploy.cli.health import health
from deploy.cli.send import send
from deploy.cli.setup import env, keygen, migrate
from deploy.cli.stats import stats
from deploy.cli.up import up
from deploy.cli.verify import verify

app = typer.Typer(
    name="pipeline",
    help="Run and operate the webhook pipeline: the whole stack, tenants, endpoints, events and deliveries.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (up, migrate, env, send, verify, stats, health, keygen):
    app.command()(command)
for name, group in (
    ("tenants", tenants),
    ("endpoints", endpoints),
    ("secrets", secrets),
    ("events", events),
    ("deliveries", deliveries),
    ("handlers", handlers),
):
    app.add_typer(group.app, name=name)


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
