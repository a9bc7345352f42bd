"""The snapshot of the registry."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet

from ingress import endpoints as known
from ingress.endpoints import Endpoints
from ingress.errors import ENDPOINT_UNREADABLE, INBOX_UNAVAILABLE, UNKNOWN_ENDPOINT, Refusal
from ingress.schemes import find
from shared.registry import Cipher, Endpoint, Secret, encode, field_of

moveris = find("moveris")

CIPHER = Cipher([Fernet.generate_key().decode()])
OTHER_CIPHER = Cipher([Fernet.generate_key().decode()])
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def secret(label: str, *, expires_at: datetime | None = None, cipher: Cipher = CIPHER) -> Secret:
    return Secret(label=label, ciphertext=cipher.encrypt(label.encode()), expires_at=expires_at)


def snapshot(*secrets: Secret, enabled: bool = True, scheme: str = "moveris") -> Endpoints:
    one = Endpoint(provider="moveris", tenant="acme", scheme=scheme, enabled=enabled, secrets=secrets)
    endpoints = Endpoints(CIPHER)
    endpoints.replace({b"version": b"7", field_of("moveris", "acme"): encode(one)})
    return endpoints


def found_in(endpoints: Endpoints) -> known.Endpoint:
    found = endpoints.find("moveris/acme")
    assert isinstance(found, known.Endpoint)
    return found


def test_before_a_registry_was_loaded_nothing_is_unknown() -> None:
    assert Endpoints(CIPHER).find("moveris/acme") is INBOX_UNAVAILABLE


def test_an_endpoint_is_found_with_its_keys_in_clear() -> None:
    found = found_in(snapshot(secret("a"), secret("b")))
    assert (found.provider, found.tenant, found.scheme) == ("moveris", "acme", moveris)
    assert [(key.label, key.secret) for key in found.valid_keys(0)] == [("a", b"a"), ("b", b"b")]


@pytest.mark.parametrize("name", ["moveris/other", "moveris/", "/acme", "/", "version/", "moveris/acme ", "\ud800/x"])
def test_any_other_name_is_unknown(name: str) -> None:
    assert snapshot(secret("a")).find(name) is UNKNOWN_ENDPOINT


def test_a_disabled_endpoint_is_unknown() -> None:
    assert snapshot(secret("a"), enabled=False).find("moveris/acme") is UNKNOWN_ENDPOINT


def test_an_expired_key_is_not_alive() -> None:
    found = found_in(snapshot(secret("old", expires_at=NOW), secret("new", expires_at=NOW + timedelta(hours=1))))
    assert [key.label for key in found.valid_keys(NOW.timestamp() - 1)] == ["old", "new"]
    assert [key.label for key in found.valid_keys(NOW.timestamp())] == ["new"]


def test_a_secret_that_cannot_be_decrypted_is_remembered_until_it_expires(caplog: pytest.LogCaptureFixture) -> None:
    endpoints = snapshot(secret("ours"), secret("foreign", expires_at=NOW, cipher=OTHER_CIPHER))
    with caplog.at_level(logging.ERROR):
        found = [found_in(endpoints) for _ in range(3)]
    assert found[0].unreadable_until == NOW.timestamp()
    assert [key.label for key in found[0].keys] == ["ours"]
    assert [record.__dict__["code"] for record in caplog.records] == ["endpoint_unreadable"], "logged once"


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"\xff", b'{"scheme":"morse","enabled":true,"secrets":[]}'])
def test_what_cannot_be_read_is_our_fault(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    endpoints = Endpoints(CIPHER)
    endpoints.replace({b"version": b"1", b"moveris/acme": value})
    with caplog.at_level(logging.ERROR):
        found = [endpoints.find("moveris/acme") for _ in range(3)]
    assert found == [ENDPOINT_UNREADABLE] * 3
    assert len(caplog.records) == 1


def test_a_vanished_registry_replaces_nothing() -> None:
    endpoints = snapshot(secret("a"))
    endpoints.replace({})
    assert endpoints.version == "7"
    assert not isinstance(endpoints.find("moveris/acme"), Refusal)


def test_a_new_version_replaces_the_whole() -> None:
    endpoints = snapshot(secret("a"))
    found_in(endpoints)
    endpoints.replace({b"version": b"8"})
    assert endpoints.version == "8"
    assert endpoints.find("moveris/acme") is UNKNOWN_ENDPOINT


def test_only_what_has_changed_is_opened_again() -> None:
    def field(label: str) -> bytes:
        one = Endpoint(provider="moveris", tenant="any", scheme="moveris", enabled=True, secrets=(secret(label),))
        return encode(one)

    stays, before, after = field("a"), field("b"), field("c")
    endpoints = Endpoints(CIPHER)
    endpoints.replace({b"version": b"1", b"moveris/stays": stays, b"moveris/changes": before, b"moveris/goes": stays})
    found = {name: endpoints.find(f"moveris/{name}") for name in ("stays", "changes", "goes")}
    endpoints.replace({b"version": b"2", b"moveris/stays": stays, b"moveris/changes": after})
    assert endpoints.find("moveris/stays") is found["stays"]
    assert endpoints.find("moveris/goes") is UNKNOWN_ENDPOINT
    changed = endpoints.find("moveris/changes")
    assert isinstance(changed, known.Endpoint)
    assert [key.label for key in changed.keys] == ["c"]


def test_ten_thousand_endpoints_are_taken_over_without_holding_the_loop() -> None:
    one = Endpoint(provider="moveris", tenant="acme", scheme="moveris", enabled=True, secrets=(secret("a"),))
    value = encode(one)
    fields = {b"version": b"1", **{f"moveris/t{number}".encode(): value for number in range(10_000)}}
    endpoints = Endpoints(CIPHER)
    started = time.thread_time()
    endpoints.replace(fields)
    assert time.thread_time() - started < 0.01
    assert isinstance(endpoints.find("moveris/t9999"), known.Endpoint)


def test_a_registry_of_which_no_secret_opens_is_told_from_one_with_a_bad_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = Cipher([Fernet.generate_key().decode()])
    assert not snapshot().has_wrong_key
    assert not snapshot(secret("a", cipher=other), secret("b")).has_wrong_key
    assert "opens no secret" not in caplog.text
    assert snapshot(secret("a", cipher=other), secret("b", cipher=other)).has_wrong_key
    assert "SECRETS_KEY opens no secret of the registry" in caplog.text
