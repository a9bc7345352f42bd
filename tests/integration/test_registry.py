"""The registry in Postgres and its publication to Redis."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import redis
from cryptography.fernet import Fernet

from shared import registry
from tests.names import NAMES
from workers.housekeeping.publishing import Publisher, published_version
from workers.store import pauses, refusals, tenants
from workers.store.connect import Connection, connect

if TYPE_CHECKING:
    from collections.abc import Iterator

CIPHER = registry.Cipher([Fernet.generate_key().decode()])


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def add_acme(connection: Connection) -> None:
    tenants.add_tenant(connection, "acme")
    tenants.add_endpoint(
        connection, tenant="acme", provider="moveris", scheme="moveris", label="v1", ciphertext=CIPHER.encrypt(b"first")
    )


def publisher(client: redis.Redis) -> Publisher:
    return Publisher(client, NAMES, environment="")


def published(client: redis.Redis) -> dict[bytes, registry.Endpoint]:
    """Return what the ingress would read."""
    fields: dict[bytes, bytes] = client.hgetall(NAMES.registry)  # type: ignore[assignment]  # no decoding here
    return {name: registry.decode(name, value) for name, value in fields.items() if name != b"version"}


def test_a_new_endpoint_is_read_back_with_its_secret(connection: Connection) -> None:
    add_acme(connection)
    version, (endpoint,) = tenants.read_registry(connection)
    assert version == tenants.registry_version(connection)
    assert (endpoint.provider, endpoint.tenant, endpoint.scheme, endpoint.enabled) == (
        "moveris",
        "acme",
        "moveris",
        True,
    )
    assert [CIPHER.decrypt(secret) for secret in endpoint.secrets] == [b"first"]
    assert tenants.find_endpoint(connection, tenant="acme", provider="moveris") == endpoint


def test_an_empty_registry_is_read_as_no_endpoints(connection: Connection) -> None:
    assert tenants.read_registry(connection) == (tenants.registry_version(connection), [])


def test_each_change_of_an_endpoint_or_secret_raises_the_version(connection: Connection) -> None:
    add_acme(connection)
    versions = [tenants.registry_version(connection)]
    key = {"tenant": "acme", "provider": "moveris"}
    tenants.add_secret(connection, **key, label="v2", ciphertext=CIPHER.encrypt(b"second"))
    versions.append(tenants.registry_version(connection))
    tenants.expire_secret(connection, **key, label="v1", at=datetime.now(UTC))
    versions.append(tenants.registry_version(connection))
    tenants.disable_endpoint(connection, **key)
    versions.append(tenants.registry_version(connection))
    assert versions == sorted(set(versions))


def test_a_change_that_is_rolled_back_raises_nothing(connection: Connection) -> None:
    add_acme(connection)
    before = tenants.read_registry(connection)
    with pytest.raises(refusals.EndpointExistsError):
        tenants.add_endpoint(
            connection, tenant="acme", provider="moveris", scheme="moveris", label="v9", ciphertext=b"x"
        )
    assert tenants.read_registry(connection)[1] == before[1]


@pytest.mark.parametrize("name", ["", "Acme", "a/b", "-acme", "ä", "a" * 64, "acme\n"])
def test_a_name_that_no_path_takes_is_refused_with_a_sentence(connection: Connection, name: str) -> None:
    with pytest.raises(refusals.BadNameError, match="lower-case letters"):
        tenants.add_tenant(connection, name)


def test_what_exists_or_is_missing_is_refused_by_name(connection: Connection) -> None:
    add_acme(connection)
    key = {"tenant": "acme", "provider": "moveris"}
    with pytest.raises(refusals.TenantExistsError, match="acme"):
        tenants.add_tenant(connection, "acme")
    with pytest.raises(refusals.UnknownTenantError, match="nobody"):
        pauses.pause(connection, tenant="nobody")
    with pytest.raises(refusals.UnknownTenantError, match="pipeline tenants add nobody"):
        tenants.add_endpoint(connection, tenant="nobody", provider="p", scheme="p", label="l", ciphertext=b"x")
    with pytest.raises(refusals.SecretExistsError, match="v1"):
        tenants.add_secret(connection, **key, label="v1", ciphertext=b"x")
    with pytest.raises(refusals.UnknownEndpointError, match="github"):
        tenants.add_secret(connection, tenant="acme", provider="github", label="v1", ciphertext=b"x")
    with pytest.raises(refusals.UnknownSecretError, match="v7"):
        tenants.expire_secret(connection, **key, label="v7", at=datetime.now(UTC))
    with pytest.raises(refusals.BadNameError, match="label"):
        tenants.add_secret(connection, **key, label="", ciphertext=b"x")
    with pytest.raises(refusals.UnknownEndpointError, match="github"):
        tenants.find_endpoint(connection, tenant="acme", provider="github")


def test_a_tenant_is_paused_limited_and_resumed(connection: Connection) -> None:
    tenants.add_tenant(connection, "acme", max_in_flight=3)
    pauses.pause(connection, tenant="acme")
    (paused,) = tenants.list_tenants(connection)
    assert paused.paused_at is not None
    assert pauses.resume(connection, tenant="acme")
    tenants.limit_tenant(connection, "acme", None)
    (resumed,) = tenants.list_tenants(connection)
    assert (resumed.paused_at, resumed.max_in_flight) == (None, None)


def test_what_a_tenant_may_send_is_published_with_each_of_its_endpoints(
    connection: Connection, redis_client: redis.Redis
) -> None:
    add_acme(connection)
    publisher(redis_client).publish(connection)
    limits = registry.Limits(rate=100.0, burst=1000, inbox_bytes=100_000_000)
    tenants.limit_ingest(connection, "acme", limits)
    assert publisher(redis_client).publish_if_stale(connection)
    assert [endpoint.limits for endpoint in published(redis_client).values()] == [limits]
    (tenant,) = tenants.list_tenants(connection)
    assert (tenant.ingest_rate, tenant.ingest_burst, tenant.inbox_bytes) == (100.0, 1000, 100_000_000)
    tenants.limit_ingest(connection, "acme", registry.Limits())
    assert publisher(redis_client).publish_if_stale(connection)
    assert [endpoint.limits for endpoint in published(redis_client).values()] == [registry.Limits()]
    tenants.weigh_tenant(connection, "acme", 2)
    assert not publisher(redis_client).publish_if_stale(connection)
    with pytest.raises(refusals.UnknownTenantError):
        tenants.limit_ingest(connection, "globex", limits)


def test_lists_show_labels_and_never_a_secret(connection: Connection) -> None:
    add_acme(connection)
    key = {"tenant": "acme", "provider": "moveris"}
    tenants.add_secret(connection, **key, label="v2", ciphertext=CIPHER.encrypt(b"second"))
    tenants.expire_secret(connection, **key, label="v1", at=datetime.now(UTC) - timedelta(seconds=1))
    (endpoint,) = tenants.list_endpoints(connection, tenant="acme")
    assert list(endpoint.labels) == ["v2"]
    assert [secret.label for secret in tenants.list_secrets(connection, tenant="acme")] == ["v1", "v2"]
    assert not hasattr(tenants.list_secrets(connection, tenant="acme")[0], "ciphertext")


def test_publishing_puts_the_registry_where_the_ingress_reads(
    connection: Connection, redis_client: redis.Redis
) -> None:
    add_acme(connection)
    assert publisher(redis_client).publish(connection)
    assert list(published(redis_client).values()) == tenants.read_registry(connection)[1]
    assert not publisher(redis_client).publish(connection)  # nothing changed
    assert published_version(redis_client, NAMES) == tenants.registry_version(connection)


def test_a_stale_or_missing_registry_is_published_by_the_sweeper_and_a_fresh_one_is_not(
    connection: Connection, redis_client: redis.Redis
) -> None:
    assert publisher(redis_client).publish_if_stale(connection)
    assert not publisher(redis_client).publish_if_stale(connection)
    add_acme(connection)
    assert publisher(redis_client).publish_if_stale(connection)
    redis_client.flushall()
    assert publisher(redis_client).publish_if_stale(connection)
    assert list(published(redis_client)) == [b"moveris/acme"]


def test_an_older_registry_never_replaces_a_newer_one(connection: Connection, redis_client: redis.Redis) -> None:
    older = tenants.registry_version(connection)
    add_acme(connection)
    publisher(redis_client).publish(connection)
    assert not redis_client.eval(registry.PUBLISH, 1, NAMES.registry, older)
    assert list(published(redis_client)) == [b"moveris/acme"]


def test_a_database_made_later_is_published_over_what_an_earlier_one_left(
    connection: Connection, redis_client: redis.Redis
) -> None:
    """The version follows the clock: after a restore or with a new database, the next change is the newest."""
    after_many_changes = tenants.registry_version(connection) + 5
    redis_client.hset(NAMES.registry, mapping={"version": after_many_changes, "moveris/old": b"{}"})
    connection.execute("SELECT pg_sleep(0.01)")
    add_acme(connection)
    assert publisher(redis_client).publish_if_stale(connection)
    assert list(published(redis_client)) == [b"moveris/acme"]


def test_a_restored_database_is_published_over_what_was_newer_before(
    connection: Connection, redis_client: redis.Redis
) -> None:
    add_acme(connection)
    newer = tenants.registry_version(connection) + 1_000_000
    redis_client.hset(NAMES.registry, mapping={"version": newer, "moveris/lost": b"{}"})
    assert publisher(redis_client).publish_if_stale(connection)
    assert list(published(redis_client)) == [b"moveris/acme"]
    assert published_version(redis_client, NAMES) == newer + 1
    assert not publisher(redis_client).publish_if_stale(connection)


def test_changes_from_several_connections_never_share_a_version(
    connection: Connection, database_url: str, redis_client: redis.Redis
) -> None:
    def change_and_publish(number: int) -> int:
        with connect(database_url, name=f"test {number}") as mine:
            tenants.add_tenant(mine, f"t{number}")
            tenants.add_endpoint(
                mine, tenant=f"t{number}", provider="moveris", scheme="moveris", label="v1", ciphertext=b"x"
            )
            publisher(redis_client).publish(mine)
            return number

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change_and_publish, range(24)))
    assert published_version(redis_client, NAMES) == tenants.registry_version(connection)
    assert len(published(redis_client)) == 24


def test_ten_thousand_endpoints_are_published_in_time(connection: Connection, redis_client: redis.Redis) -> None:
    ciphertext = CIPHER.encrypt(b"a secret of usual length, 32 b..")
    connection.execute("INSERT INTO tenants (name) SELECT 't' || n FROM generate_series(1, 10000) n")
    connection.execute(
        "INSERT INTO endpoints (tenant, provider, scheme) SELECT name, 'moveris', '\"moveris\"' FROM tenants"
    )
    connection.execute(
        "INSERT INTO endpoint_secrets (tenant, provider, label, ciphertext) "
        "SELECT tenant, provider, 'v1', %s FROM endpoints",
        [ciphertext],
    )
    start = time.process_time()
    assert publisher(redis_client).publish_if_stale(connection)
    seconds = time.process_time() - start
    assert redis_client.hlen(NAMES.registry) == 10_001
    assert seconds < 2.0, f"{seconds:.2f} s of CPU"  # 0.3 to 0.4 s; a query for each endpoint takes ten times that
