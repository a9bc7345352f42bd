"""Standard Webhooks: the published vectors of both algorithms, and the libraries of the standard and of Svix."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
import standardwebhooks
import svix.webhooks

from ingress.schemes import find
from ingress.schemes.scheme import BadSignature, Key

if TYPE_CHECKING:
    from collections.abc import Mapping

scheme = find("standard-webhooks")

SECRET: Final = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PUBLIC: Final = b"whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
ID: Final = "msg_p5jXN8AQM9LWM0D4loKWxJek"
NOW: Final = 1_614_265_330
BODY: Final = b'{"test": 2432232314}'
V1: Final = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
V1A: Final = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
SENDERS: Final = pytest.mark.parametrize("library", [standardwebhooks.Webhook, svix.webhooks.Webhook])
# Svix still sends its own header names.
PREFIXES: Final = pytest.mark.parametrize("prefix", ["webhook", "svix"])


def key(text: bytes) -> Key:
    return scheme.read_key(label=text.decode(), text=text)


def headers(signature: str, *, prefix: str = "webhook", event_id: str = ID) -> list[tuple[bytes, bytes]]:
    named = {"id": event_id, "timestamp": str(NOW), "signature": signature}
    return [(f"{prefix}-{name}".encode(), value.encode()) for name, value in named.items()]


def verify(
    sent: list[tuple[bytes, bytes]], *secrets: bytes, body: bytes = BODY, now: float = NOW
) -> Key | BadSignature:
    return scheme.verify(keys=[key(text) for text in secrets], headers=sent, body=body, now=now)


@PREFIXES
@pytest.mark.parametrize(("secret", "signature"), [(SECRET, V1), (PUBLIC, V1A)])
def test_the_published_vectors_verify(prefix: str, secret: bytes, signature: str) -> None:
    sent = headers(signature, prefix=prefix)
    assert verify(sent, secret) == key(secret)
    assert verify(sent, secret, now=NOW + 300) == key(secret)
    assert verify(sent, secret, now=NOW + 301) is BadSignature.STALE
    assert verify(sent, secret, now=NOW - 301) is BadSignature.STALE
    assert verify(sent, secret, body=BODY + b"\n") is BadSignature.INVALID
    assert verify(headers(signature, prefix=prefix, event_id=ID + "x"), secret) is BadSignature.INVALID


def test_signing_gives_the_published_vector() -> None:
    assert scheme.sign(SECRET, BODY, now=NOW, event_id=ID) == {
        "webhook-id": ID,
        "webhook-timestamp": str(NOW),
        "webhook-signature": V1,
    }


def test_one_header_may_hold_both_and_each_secret_finds_its_own() -> None:
    sent = headers(f"{V1A} {V1} v1,AAAA")
    for secret in (SECRET, PUBLIC):
        verdict = verify(sent, b"whsec_b3RoZXI=", secret)
        assert isinstance(verdict, Key)
        assert verdict.label == secret.decode()
    assert verify(headers(V1), PUBLIC) is BadSignature.INVALID
    assert verify(headers(V1A), SECRET) is BadSignature.INVALID


@SENDERS
@PREFIXES
@pytest.mark.parametrize("body", [BODY, b"{}", '{"name": "Zoë"}'.encode(), b""])
def test_what_the_libraries_sign_verifies(library: type[Any], prefix: str, body: bytes) -> None:
    made = library(SECRET.decode()).sign(ID, datetime.fromtimestamp(NOW, UTC), body.decode())
    assert verify(headers(made, prefix=prefix), SECRET, body=body) == key(SECRET)


@SENDERS
def test_the_libraries_verify_what_we_sign(library: type[Any]) -> None:
    now = datetime.now(UTC).timestamp()
    sent: Mapping[str, str] = scheme.sign(SECRET, BODY, now=now, event_id=ID)
    library(SECRET.decode()).verify(BODY, dict(sent))


@SENDERS
def test_a_secret_without_its_prefix_is_the_same_secret(library: type[Any]) -> None:
    bare = SECRET.removeprefix(b"whsec_")
    made = library(bare.decode()).sign(ID, datetime.fromtimestamp(NOW, UTC), BODY.decode())
    assert verify(headers(made), bare) == key(bare)
