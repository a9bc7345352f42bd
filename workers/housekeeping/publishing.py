"""Publishes the registry from Postgres to Redis, where the ingress reads it.

Only a newer version replaces what Redis holds, however many publish at once; the endpoints published under a version
are exactly those of that version. Errors of Postgres and Redis reach the caller; the sweeper tries again each second.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from shared import registry
from workers.store import tenants

if TYPE_CHECKING:
    import redis

    from workers.store.connect import Connection


def publish(connection: Connection, redis_client: redis.Redis) -> bool:
    """Publish the registry as it is now.

    Returns:
        Whether it replaced an older one; False if Redis held this version or a newer one already.
    """
    version, endpoints = tenants.read_registry(connection)
    fields = ((registry.field_of(it.provider, it.tenant), registry.encode(it)) for it in endpoints)
    return bool(redis_client.eval(registry.PUBLISH, 1, registry.REGISTRY, version, *chain.from_iterable(fields)))


def publish_if_stale(connection: Connection, redis_client: redis.Redis) -> bool:
    """Publish if Redis holds nothing or another version; two small look-ups otherwise. Returns whether it did.

    1. Look at Redis first: what is published was committed before, so Postgres, asked later, knows it or a newer one.
    2. If Postgres is behind all the same, it was restored from a backup: its registry counts, as a version of its own.
    """
    held = published_version(redis_client)
    version = tenants.registry_version(connection)
    if held is not None and held == version:
        return False
    if held is not None and held > version:
        tenants.overtake(connection, held)
    return publish(connection, redis_client)


def published_version(redis_client: redis.Redis) -> int | None:
    """Return the version that Redis holds, None if none was published."""
    held = redis_client.hget(registry.REGISTRY, registry.VERSION_FIELD)
    return None if held is None else int(held)
