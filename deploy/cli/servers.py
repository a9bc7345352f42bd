"""The servers of one command: which they are, and connections that are closed with the block.

Each value comes from its environment variable, else from the stack that runs in PIPELINE_HOME, else from the only stack
that this user runs; nothing is looked up before it is asked for. A command never waits for Redis longer than about two
seconds. What it changes in the registry is published before it ends, or it says that the sweeper will do so.
"""

from __future__ import annotations

import shlex
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import redis

from deploy.cli.errors import explain
from deploy.local.settings import GivenSettings, StackSettings
from deploy.local.state import Stack, running_homes, running_stack
from shared.registry import Cipher
from shared.settings import SettingError, fernet_keys, load
from workers.housekeeping import publishing
from workers.store.connect import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.store.connect import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The servers of this command; a property raises `SettingError` when nothing tells its value."""

    given: GivenSettings

    @property
    def database_url(self) -> str:
        """Return the URL of Postgres."""
        return self.given.database_url or _stack("DATABASE_URL").database_url

    @property
    def redis_url(self) -> str:
        """Return the URL of Redis."""
        return self.given.redis_url or _stack("REDIS_URL").redis_url

    @property
    def secrets_key(self) -> tuple[str, ...]:
        """Return the Fernet keys: the first encrypts, all decrypt."""
        return self.given.secrets_key or fernet_keys(_stack("SECRETS_KEY").secrets_key)

    @property
    def ingress_url(self) -> str:
        """Return where the ingress listens, with no slash at the end."""
        return self.given.ingress_url or _stack("INGRESS_URL").ingress_url


def find_context() -> Context:
    """Return where this command's servers are."""
    return Context(given=load(GivenSettings))


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


@contextmanager
def database(*, read_seconds: int | None = None) -> Iterator[Connection]:
    """Open Postgres; no single statement takes longer than `read_seconds`."""
    with connect(find_context().database_url, name="pipeline command") as connection:
        if read_seconds is not None:
            connection.execute("SELECT set_config('statement_timeout', %s, false)", [f"{read_seconds}s"])
        yield connection


@contextmanager
def redis_client() -> Iterator[redis.Redis]:
    """Open Redis."""
    with redis.Redis.from_url(find_context().redis_url, socket_timeout=2, socket_connect_timeout=2) as client:
        yield client


def cipher() -> Cipher:
    """Return what encrypts and decrypts secrets."""
    return Cipher(find_context().secrets_key)


def publish(connection: Connection) -> None:
    """Publish the registry; with Redis away, say that it comes later: the change itself is safe."""
    try:
        with redis_client() as client:
            publishing.publish(connection, client)
    except redis.RedisError as error:
        print(f"pipeline: changed, but not published yet: {explain(error)}", file=sys.stderr)
        print("pipeline: the sweeper publishes it as soon as Redis answers", file=sys.stderr)
