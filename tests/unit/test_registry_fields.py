"""The registry's fields in Redis: what is written is read back, and nothing else is read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from shared.registry import Cipher, Endpoint, Limits, RegistryError, Secret, decode, encode, field_of

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
SECRETS = st.builds(
    Secret,
    label=st.text(min_size=1, max_size=20),
    ciphertext=st.binary(max_size=40).map(lambda it: it.hex().encode()),
    expires_at=st.none()
    | st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=2))]), allow_imaginary=False),
)
ENDPOINTS = st.builds(
    Endpoint,
    provider=NAMES,
    tenant=NAMES,
    scheme=st.sampled_from(["moveris", {"header": "X-A", "algorithm": "hmac-sha256"}]),
    enabled=st.booleans(),
    secrets=st.lists(SECRETS, max_size=3).map(tuple),
    limits=st.builds(
        Limits,
        rate=st.none() | st.floats(min_value=0.001, max_value=1e6),
        burst=st.none() | st.integers(min_value=1),
        inbox_bytes=st.none() | st.integers(min_value=1),
    ),
)
KEYS = [Fernet.generate_key().decode() for _ in range(3)]


@given(ENDPOINTS)
def test_an_endpoint_is_read_back_as_it_was_written(endpoint: Endpoint) -> None:
    assert decode(field_of(endpoint.provider, endpoint.tenant), encode(endpoint)) == endpoint


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"null",
        json.dumps({"scheme": "a", "enabled": True}).encode(),
        json.dumps({"scheme": "a", "enabled": True, "secrets": [{}]}).encode(),
        json.dumps(
            {"scheme": "a", "enabled": True, "secrets": [{"label": "a", "ciphertext": 1, "expires_at": None}]}
        ).encode(),
        json.dumps(
            {"scheme": "a", "enabled": True, "secrets": [{"label": "a", "ciphertext": "ü", "expires_at": None}]}
        ).encode(),
        json.dumps(
            {"scheme": "a", "enabled": True, "secrets": [{"label": "a", "ciphertext": "a", "expires_at": "soon"}]}
        ).encode(),
        json.dumps({"scheme": "a", "enabled": True, "secrets": [], "limits": {"rate": "100/s"}}).encode(),
        json.dumps({"scheme": "a", "enabled": True, "secrets": [], "limits": {"rate": 0}}).encode(),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_field(value: bytes) -> None:
    with pytest.raises(RegistryError, match="the registry field b'moveris/acme' cannot be read"):
        decode(b"moveris/acme", value)


@pytest.mark.parametrize("limits", [{}, {"limits": {}}, {"limits": {"a_later_limit": 1}}])
def test_fields_of_earlier_and_later_versions_are_read(limits: dict[str, Any]) -> None:
    value = json.dumps({"scheme": "a", "enabled": True, "secrets": []} | limits).encode()
    assert decode(b"moveris/acme", value).limits == Limits()


@given(field=st.binary(max_size=20), value=st.binary(max_size=40))
def test_any_bytes_are_an_endpoint_or_an_error(field: bytes, value: bytes) -> None:
    with pytest.raises(RegistryError):
        decode(field, value)


def sealed(*keys: str, text: bytes = b"whsec_a") -> Secret:
    return Secret(label="main", ciphertext=Cipher(keys).encrypt(text), expires_at=None)


@pytest.mark.parametrize(
    ("writing", "reading", "place"),
    [
        (KEYS[:1], KEYS[:1], 1),
        (KEYS[:1], [KEYS[1], KEYS[0]], 2),  # rotation: all keys decrypt
        ([KEYS[1], KEYS[0]], KEYS[:1], None),  # the first one encrypts
        (KEYS[:1], KEYS[1:], None),
    ],
)
def test_the_first_key_encrypts_and_all_decrypt(writing: list[str], reading: list[str], place: int | None) -> None:
    secret, cipher = sealed(*writing), Cipher(reading)
    assert b"whsec_a" not in secret.ciphertext
    assert cipher.key_of(secret) == place
    assert cipher.can_decrypt(secret) is (place is not None)
    if place:
        assert cipher.decrypt(secret) == b"whsec_a"
        return
    with pytest.raises(RegistryError, match="the secret 'main' was encrypted with a key that SECRETS_KEY does not"):
        cipher.decrypt(secret)


def test_a_secret_is_not_shown_in_clear() -> None:
    assert "whsec_a" not in repr(sealed(KEYS[0]))


def test_an_instant_keeps_its_zone() -> None:
    at = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    endpoint = Endpoint(
        provider="a",
        tenant="b",
        scheme="moveris",
        enabled=True,
        secrets=(Secret(label="c", ciphertext=b"d", expires_at=at),),
    )
    assert decode(b"a/b", encode(endpoint)).secrets[0].expires_at == at
