"""The commands that set a deployment up: `pipeline env`, `keygen`, `migrate`, `grants` and `adopt`."""

from typing import Annotated, Literal

import typer
from cryptography.fernet import Fernet

from deploy.cli.connections import (
    broker_client,
    database,
    database_schema,
    database_url,
    environment,
    inbox_client,
    names,
    redis_variables,
    secrets_key,
)
from deploy.cli.errors import CommandError
from deploy.cli.output import emit, say, wants_json
from workers.housekeeping.publishing import Publisher
from workers.store.connect import connect
from workers.store.grants import grants_for_application, grants_for_handlers
from workers.store.identity import read_identity
from workers.store.migrate import migrate as apply
from workers.store.partitions import ensure_partitions, list_missing


def env(
    *,
    secrets: Annotated[bool, typer.Option("--secrets", help="Print SECRETS_KEY too, for an ingress by hand.")] = False,
) -> None:
    """Print the servers that the other commands use, ready for `export $(pipeline env)`.

    An environment variable wins, then the stack that runs in PIPELINE_HOME.
    """
    values = {"DATABASE_URL": database_url()} | redis_variables()
    further = {
        "DATABASE_SCHEMA": database_schema(),
        "REDIS_PREFIX": names().prefix,
        "PIPELINE_ENVIRONMENT": environment(),
    }
    values |= {variable: value for variable, value in further.items() if value}
    if secrets:
        values["SECRETS_KEY"] = ",".join(secrets_key())
    say(values, *(f"{variable}={value}" for variable, value in values.items()))


def keygen() -> None:
    """Print a new key for SECRETS_KEY, which encrypts the endpoints' secrets.

    The ingress and the commands that add secrets need the same value; the workers need none.
    To change it, put the new key first and keep the old one after a comma.

    Examples:
        export SECRETS_KEY=$(pipeline keygen)
    """
    key = Fernet.generate_key().decode()
    say({"secrets_key": key}, key)


def migrate(
    *,
    phase: Annotated[
        Literal["pre", "post"] | None,
        typer.Option(help="Only what goes before (pre) or after (post) a deployment of services."),
    ] = None,
) -> None:
    """Bring the database's tables up to this version.

    Makes the partitions of the coming days, too. Safe to run at any time and any number of times; `pre` before new
    services start, `post` when no old one is left.
    """
    schema = database_schema()
    with connect(database_url(), name="pipeline migrate", schema=schema, lease_seconds=3600) as connection:
        names = apply(connection, phase, schema=schema)
        ensure_partitions(connection)
        missing = list_missing(connection)
    if wants_json():
        emit([*({"applied": name} for name in names), *({"missing": name} for name in missing)])
        return
    lines = [f"applied {name}" for name in names]
    if missing:
        lines.append(
            f"{len(missing)} partitions of days are missing ({missing[0]}, …): a long transaction, such as a pg_dump,"
            " holds their tables; housekeeping makes them when it has ended, and so does this command"
        )
    print(*(lines or ["nothing to do: the database is up to date"]), sep="\n")


def grants(
    *,
    application: Annotated[str | None, typer.Option(help="Role of workers and commands, which owns nothing.")] = None,
    handlers: Annotated[str | None, typer.Option(help="Role of HANDLER_DATABASE_URL.")] = None,
) -> None:
    """Print the statements that give roles the rights that they need, and no more.

    The owner of the tables runs them, after the first `pipeline migrate`; later ones keep them up to date.

    Examples:
        pipeline grants --application pipeline --handlers acme | psql "$DATABASE_URL"
    """
    if not (application or handlers):
        raise CommandError("name a role: --application, --handlers or both")
    with database(read_only=True) as connection:
        lines = grants_for_application(connection, application) if application else []
        lines += grants_for_handlers(connection, handlers) if handlers else []
    if wants_json():
        emit({"statement": line} for line in lines)
        return
    print(*(f"{line};" for line in lines), sep="\n")


def adopt() -> None:
    """Make Redis this database's own, after the database was moved or restored.

    Until then workers refuse a Redis that belongs to another database or environment. Stop those of the other one
    first: what is in the inbox from now on goes to this one. The registry is published anew.
    """
    with database() as connection, inbox_client() as client, broker_client() as broker:
        own, named = read_identity(connection, environment()), names()
        held = client.set(named.identity, own, get=True)
        broker.set(named.identity, own)
        former = held.decode("utf-8", "replace") if isinstance(held, bytes) else None
        Publisher(client, named, environment=environment()).publish_if_stale(connection)
    change = "it did already" if former == own else f"before, to {former or 'nobody'}"
    say({"identity": own, "former": former}, f"Redis belongs to {own}; {change}")
