"""Publishes the registry from Postgres to Redis, where the ingress reads it.

Only a newer version replaces what Redis holds, however many publish at once; the endpoints published under a version
are exactly those of that version. A Redis of another database or environment is refused before anything changes. Errors
of Postgres and Redis reach the caller; the sweeper tries again each second.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from shared import registry
from shared.identity import claim
from workers.store import tenants
from workers.store.identity import read_identity

if TYPE_CHECKING:
    import redis

    from shared.wire import Names
    from workers.store.connect import Connection


class Publisher:
    """Publishes to one Redis."""

    def __init__(self, client: redis.Redis, names: Names, *, environment: str) -> None:
        """Make a publisher.

        Args:
            client: of Redis.
            names: in Redis.
            environment: PIPELINE_ENVIRONMENT.
        """
        self._client = client
        self._names = names
        self._environment = environment

    def publish(self, connection: Connection) -> bool:
        """Publish the registry as it is now.

        Returns:
            Whether it replaced an older one; False if Redis held this version or a newer one already.

        Raises:
            ForeignRedisError: Redis belongs to another database or environment.
        """
        claim(self._client, self._names, read_identity(connection, self._environment))
        version, endpoints = tenants.read_registry(connection)
        fields = ((registry.field_of(it.provider, it.tenant), registry.encode(it)) for it in endpoints)
        arguments = chain.from_iterable(fields)
        return bool(self._client.eval(registry.PUBLISH, 1, self._names.registry, version, *arguments))

    def publish_if_stale(self, connection: Connection) -> bool:
        """Publish if Redis holds nothing or another version; a few small look-ups otherwise. Returns whether it did.

        1. Look at Redis first: what is published was committed before, so Postgres, asked later, knows it or a newer
           one.
        2. If Postgres is behind all the same, it was restored from a backup: its registry counts, as a version of its
           own.

        Raises:
            ForeignRedisError: Redis belongs to another database or environment.
        """
        held = published_version(self._client, self._names)
        version = tenants.registry_version(connection)
        if held is not None and held == version:
            return False
        if held is not None and held > version:
            claim(self._client, self._names, read_identity(connection, self._environment))
            tenants.overtake(connection, held)
        return self.publish(connection)


def published_version(client: redis.Redis, names: Names) -> int | None:
    """Return the version that Redis holds, None if none was published."""
    held = client.hget(names.registry, registry.VERSION_FIELD)
    return None if held is None else int(held)
