"""Where the servers of a command are, and connections that are closed with the block.

Each value comes from its environment variable, else from the stack that runs in PIPELINE_HOME, else from the only stack
that this user runs; nothing is looked up before it is asked for.
"""

import getpass
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

import redis

from deploy.cli.errors import explain
from deploy.cli.output import given_reason
from deploy.local.settings import GivenSettings, StackSettings
from deploy.local.state import Stack, running_homes, running_stack
from shared.redis_client import open_client
from shared.registry import Cipher
from shared.settings import SettingError, fernet_keys, load
from shared.wire import Names
from workers.housekeeping.publishing import Publisher
from workers.store import audit
from workers.store.connect import Connection, bound_statements, connect

REDIS_SECONDS: Final = 2.0
READ_SECONDS: Final = 30
"""Time that a statement of a command that only reads may take."""


def _postgres() -> GivenSettings | Stack:
    given = load(GivenSettings)
    return given if given.database_url else _stack("DATABASE_URL")


def _redis() -> GivenSettings | Stack:
    given = load(GivenSettings)
    return given if given.redis_url or given.inbox_url or given.broker_url else _stack("REDIS_URL")


def database_url() -> str:
    """Return the URL of Postgres."""
    return _postgres().database_url or ""


def database_schema() -> str:
    """Return the schema of the pipeline's tables, empty where none is set."""
    return load(GivenSettings).database_schema or _postgres().database_schema


def environment() -> str:
    """Return the name of this environment, empty where none is set."""
    return load(GivenSettings).environment or _postgres().environment


def redis_urls() -> tuple[str, str]:
    """Return the URLs of the Redis of the inbox and of the broker."""
    return _redis().redis_servers


def redis_variables() -> dict[str, str]:
    """Return the variables that name them to other processes."""
    inbox, broker = redis_urls()
    return {"REDIS_URL": inbox} if inbox == broker else {"INBOX_URL": inbox, "BROKER_URL": broker}


def names() -> Names:
    """Return the names in Redis."""
    return Names(load(GivenSettings).redis_prefix or _redis().redis_prefix)


def secrets_key() -> tuple[str, ...]:
    """Return the Fernet keys: the first encrypts, all decrypt."""
    return load(GivenSettings).secrets_key or fernet_keys(_stack("SECRETS_KEY").secrets_key)


def cipher() -> Cipher:
    """Return what encrypts and decrypts secrets."""
    return Cipher(secrets_key())


def ingress_url() -> str:
    """Return where the ingress listens, with no slash at the end."""
    return load(GivenSettings).ingress_url or _stack("INGRESS_URL").ingress_url


@cache
def _stack(variable: str) -> Stack:
    """Return the running stack; `variable` is what could be set instead."""
    home, is_given = load(StackSettings).home, load(GivenSettings).has_home
    if stack := running_stack(home):
        return stack
    others = running_homes()
    if not others:
        raise SettingError(f"no stack runs here: start one with `make run`, or set {variable}")
    if is_given or len(others) > 1:
        homes = " or ".join(f"PIPELINE_HOME={shlex.quote(str(other))}" for other in others)
        raise SettingError(f"no stack runs in {home}: set {homes}, where one runs, or set {variable}")
    stack = running_stack(others[0])
    if stack is None:
        raise SettingError(f"the stack in {others[0]} starts or stops at this moment: try again")
    return stack


def person() -> str:
    """Return the user of the system in whose name a command makes its changes."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user that has no name
        return f"uid {os.getuid()}"


@contextmanager
def database(*, read_only: bool = False) -> Iterator[Connection]:
    """Open Postgres; changes are recorded as this person's, with the reason that was given.

    Where nothing is to be changed, no statement takes longer than `READ_SECONDS`.
    """
    with connect(database_url(), name="pipeline command", schema=database_schema()) as connection:
        if read_only:
            bound_statements(connection, READ_SECONDS, is_local=False)
        else:
            audit.act_as(connection, person(), given_reason())
        yield connection


@contextmanager
def registry_change() -> Iterator[Connection]:
    """Open Postgres for a change of endpoints or secrets, and publish the registry after it.

    With Redis away the change is safe all the same; a line says that it is published later.
    """
    with database() as connection:
        yield connection
        try:
            with inbox_client() as client:
                Publisher(client, names(), environment=environment()).publish(connection)
        except redis.RedisError as error:
            print(f"pipeline: changed, but not published yet: {explain(error)}", file=sys.stderr)
            print("pipeline: the sweeper publishes it as soon as Redis answers", file=sys.stderr)


def inbox_client() -> redis.Redis:
    """Return a client of the inbox's Redis, to be closed by `with`; it waits about two seconds at most."""
    return open_client(redis_urls()[0], seconds=REDIS_SECONDS, prefix=names().prefix)


def broker_client() -> redis.Redis:
    """Return the same of the Redis of the queues."""
    return open_client(redis_urls()[1], seconds=REDIS_SECONDS)
