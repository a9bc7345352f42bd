"""Endpoints and secrets as they change under a running ingress."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet

from shared.registry import Cipher, Endpoint, Secret
from tests.ingress_process import (
    Process,
    Valkey,
    answers,
    endpoint,
    inbox,
    own_valkey,
    publish,
    secret,
    serving,
    wait_for,
)
from tests.names import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

VISIBLE = 2.0
"""Seconds in which a change reaches a running ingress."""


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with own_valkey() as it:
        yield it


@pytest.fixture(scope="module")
def ingress(valkey: Valkey) -> Iterator[Process]:
    """One process that follows all the registries of these tests."""
    with serving(valkey.url, wait_until="/livez") as it:
        yield it


VERSIONS = itertools.count(100)


def change(valkey: Valkey, *endpoints: Endpoint) -> None:
    """Publish the next version of the registry."""
    publish(valkey.url, next(VERSIONS), *endpoints)


def status(ingress: Process, key: bytes = b"one", tenant: str = "acme") -> int:
    return ingress.post(path=f"/webhooks/moveris/{tenant}", secret=key).status_code


def in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def test_before_the_first_registry_all_is_503_and_nothing_is_unknown(valkey: Valkey, ingress: Process) -> None:
    with valkey.client() as client:
        assert not client.exists(NAMES.registry), "this test comes first"
    assert not answers(ingress, "/readyz")
    assert status(ingress) == 503
    change(valkey, endpoint(secret(b"one")))
    wait_for(lambda: status(ingress) == 200, seconds=VISIBLE)
    assert status(ingress, tenant="nobody") == 404


def test_changes_are_followed(valkey: Valkey, ingress: Process) -> None:
    change(valkey, endpoint(secret(b"one")))
    wait_for(lambda: status(ingress) == 200, seconds=VISIBLE)
    change(valkey, endpoint(secret(b"one"), enabled=False), endpoint(secret(b"one"), tenant="new"))
    wait_for(lambda: status(ingress) == 404, seconds=VISIBLE)
    assert status(ingress, tenant="new") == 200


def test_a_secret_is_rotated_without_a_gap(valkey: Valkey, ingress: Process) -> None:
    with valkey.client() as client:
        client.delete(NAMES.inbox)
    old, new = secret(b"one", label="old"), secret(b"two", label="new")
    change(valkey, endpoint(old, tenant="rotated"))
    wait_for(lambda: status(ingress, b"one", "rotated") == 200, seconds=VISIBLE)
    change(valkey, endpoint(secret(b"one", label="old", expires_at=in_an_hour()), new, tenant="rotated"))
    wait_for(lambda: status(ingress, b"two", "rotated") == 200, seconds=VISIBLE)
    assert status(ingress, b"one", "rotated") == 200
    change(valkey, endpoint(secret(b"one", label="old", expires_at=datetime.now(UTC)), new, tenant="rotated"))
    wait_for(lambda: status(ingress, b"one", "rotated") == 401, seconds=VISIBLE)
    assert status(ingress, b"two", "rotated") == 200
    labels = [entry.secret_label for entry in inbox(valkey.url)]
    assert (labels[0], labels[-1], set(labels)) == ("old", "new", {"old", "new"})


def test_a_secret_expires_without_a_new_registry(valkey: Valkey, ingress: Process) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2.5)
    change(valkey, endpoint(secret(b"one", expires_at=soon)))
    wait_for(lambda: status(ingress) == 200, seconds=VISIBLE)
    wait_for(lambda: status(ingress) == 401, seconds=5)
    assert datetime.now(UTC) >= soon


def test_the_last_good_registry_outlives_its_hash(valkey: Valkey, ingress: Process) -> None:
    change(valkey, endpoint(secret(b"one")))
    wait_for(lambda: status(ingress) == 200, seconds=VISIBLE)
    with valkey.client() as client:
        client.delete(NAMES.registry)
    publish(valkey.url, 2, endpoint(secret(b"one"), tenant="later"))  # published anew from a restored database
    wait_for(lambda: status(ingress, tenant="later") == 200, seconds=VISIBLE)
    with valkey.client() as client:
        client.flushall()
        looks = int(client.info("commandstats")["cmdstat_hget"]["calls"])
        wait_for(lambda: client.info("commandstats")["cmdstat_hget"]["calls"] > looks + 2, seconds=5)
    assert status(ingress, tenant="later") == 200
    assert answers(ingress, "/readyz")


def test_a_secret_of_a_foreign_key_is_our_fault_and_never_401(valkey: Valkey, ingress: Process) -> None:
    foreign = Secret(
        label="foreign", ciphertext=Cipher([Fernet.generate_key().decode()]).encrypt(b"one"), expires_at=None
    )
    change(
        valkey,
        endpoint(foreign),
        endpoint(foreign, secret(b"two"), tenant="both"),
        endpoint(tenant="strange", scheme="morse"),
    )
    wait_for(lambda: status(ingress, b"two", "both") == 200, seconds=VISIBLE)
    answer = ingress.post(secret=b"one")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "endpoint_unreadable")
    assert "retry-after" in answer.headers
    assert status(ingress, b"one", "both") == 503
    assert status(ingress, b"two", "both") == 200
    assert status(ingress, tenant="strange") == 503
    assert ingress.post(headers={}).status_code == 401, "without a signature no secret would help"
    assert ingress.log.read_text().count("foreign") == 2, "logged once for each endpoint"


def test_ten_thousand_endpoints_are_followed_in_time_too(valkey: Valkey, ingress: Process) -> None:
    many = endpoint(secret(b"one"))
    crowd = [endpoint(*many.secrets, tenant=f"t{number}") for number in range(10_000)]
    change(valkey, *crowd)
    wait_for(lambda: status(ingress, tenant="t9999") == 200, seconds=VISIBLE)
