"""The command `pipeline doctor`: is what the guarantees rest on as it must be?"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Final, TypeVar

import psycopg
import redis
import typer

from deploy.cli.connections import (
    broker_client,
    cipher,
    database,
    database_schema,
    environment,
    inbox_client,
    names,
    redis_urls,
)
from deploy.cli.errors import explain
from deploy.cli.output import emit, wants_json
from deploy.doctor import deployment, postgres_server, redis_server
from deploy.doctor.finding import Finding, unknown, wrong
from deploy.doctor.redis_server import BROKER_THINGS
from deploy.local.settings import GivenSettings
from shared import rights
from shared.releases import read_ingresses
from shared.settings import SettingError, load
from workers.live_workers import read_live
from workers.store import catalogue, server
from workers.store.connect import Connection
from workers.store.migrate import MigrationError

T = TypeVar("T")

_ERRORS: Final = (psycopg.Error, redis.RedisError)


def doctor() -> None:
    """Look at everything that the guarantees rest on, one line each: ok, wrong or unknown, and what to do.

    Exit code 1 if something is wrong. Nothing is changed.
    """
    findings = list(examine(lambda: database(read_only=True)))
    if wants_json():
        emit(findings)
    else:
        width = max(len(it.thing) for it in findings)
        for it in findings:
            print(f"{it.state:8} {it.thing:{width}}  {it.found}")
    if any(it.state == "wrong" for it in findings):
        raise typer.Exit(1)


def examine(
    open_database: Callable[[], AbstractContextManager[Connection]], *, in_console: bool = False
) -> Iterator[Finding]:
    """Yield what is found, of the servers that the environment names.

    Args:
        open_database: a connection that is closed or given back with its block.
        in_console: the user of Redis may be the console's, with fewer rights than that of commands.
    """
    with ExitStack() as stack:
        client, connection = stack.enter_context(inbox_client()), None
        broker, is_one = stack.enter_context(broker_client()), len(set(redis_urls())) == 1
        yield from _examine_redis(client)
        if not is_one:
            yield from _run({thing: partial(redis_server.examine_broker, broker, thing) for thing in BROKER_THINGS})
        try:
            connection = stack.enter_context(open_database())
        except (psycopg.Error, SettingError) as error:
            yield wrong("postgres", explain(error) or str(error))
            yield from (unknown(thing, "Postgres was not reached") for thing in postgres_server.THINGS)
        else:
            url = load(GivenSettings).handler_database_url
            yield from _run(postgres_server.checks(connection, handler_database_url=url, schema=database_schema()))
        yield from _run(_of_deployment(connection, client, broker, in_console=in_console))


def _examine_redis(client: redis.Redis) -> Iterator[Finding]:
    given = load(GivenSettings)
    try:
        yield from redis_server.examine_redis(client, meant=given.inbox_durability, high_water=given.inbox_high_water)
    except redis.RedisError as error:
        yield wrong("redis", explain(error) or str(error))
        yield from (unknown(thing, "Redis was not reached") for thing in redis_server.THINGS)


def _of_deployment(
    connection: Connection | None, client: redis.Redis, broker: redis.Redis, *, in_console: bool
) -> Mapping[str, Callable[[], Finding]]:
    """Return the checks that need both servers, or the workers."""
    live = _read_or_none(lambda: read_live(broker, names()))
    ingresses = _read_or_none(lambda: read_ingresses(client, names()))
    workers = {
        "redis rights": lambda: _redis_rights(client, in_console=in_console),
        "workers": lambda: deployment.workers(live),
        "releases": lambda: deployment.find_releases(live, ingresses),
    }
    if connection is None:
        missing = ("identity", "clocks", "keys", "registry", "handlers")
        return workers | {thing: lambda thing=thing: unknown(thing, "Postgres was not reached") for thing in missing}
    return {
        "identity": lambda: deployment.identity(connection, client, names(), environment()),
        "clocks": lambda: deployment.clocks(connection, client),
        "keys": lambda: deployment.keys(connection, _read_or_none(cipher)),
        "registry": lambda: deployment.registry(connection, client, names()),
        **workers,
        "handlers": lambda: deployment.handlers(
            live, catalogue.list_registered(connection), server.list_open_handlers(connection)
        ),
    }


def _redis_rights(client: redis.Redis, *, in_console: bool) -> Finding:
    is_one = len(set(redis_urls())) == 1
    if in_console:
        needed = rights.of_console if is_one else rights.of_console_at_inbox
        return deployment.redis_rights(client, needed(names()), "the console does")
    needed = rights.of_commands if is_one else rights.of_commands_at_inbox
    return deployment.redis_rights(client, needed(names()), "ingress and workers do")


def _read_or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (redis.RedisError, SettingError):
        return None


def _run(checks: Mapping[str, Callable[[], Finding]]) -> Iterator[Finding]:
    """Run checks; what a server refuses to tell is unknown."""
    for thing, check in checks.items():
        try:
            yield check()
        except MigrationError as error:
            yield wrong(thing, str(error))
        except _ERRORS as error:
            yield unknown(thing, explain(error) or str(error))
