"""The servers of one command: opened when needed, closed with the block.

Guarantees: a command never waits for Redis longer than about two seconds; what a command changes in the registry is
published before it ends, or it says that the sweeper will do so. Refuses: what `deploy.cli.env` refuses.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis

from deploy.cli.env import find_context
from deploy.cli.errors import explain
from shared.registry import Cipher
from workers.housekeeping import publishing
from workers.store.connect import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.store.connect import Connection


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
