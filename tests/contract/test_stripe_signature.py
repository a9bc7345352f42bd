"""Stripe: the vector of its .NET library's tests, and its Python library as sender and as receiver."""

from __future__ import annotations

import json
from typing import Final

import pytest
import stripe

from ingress.schemes import find
from ingress.schemes.scheme import BadSignature, Key

scheme = find("stripe")

NOW: Final = 1_533_204_620
SECRET: Final = "whsec_test"
# From stripe-dotnet (Apache-2.0): its fixture event_test_signature.json and the signature in EventUtilityTest.
PUBLISHED_BODY: Final = (
    json.dumps(
        {
            "id": "evt_123",
            "object": "event",
            "account": "acct_123",
            "api_version": "2017-05-25",
            "created": 1533204620,
            "data": {
                "object": {
                    "id": "cus_123",
                    "object": "customer",
                    "created": 123456789,
                    "email": "test@stripe.com",
                    "livemode": False,
                    "metadata": {},
                }
            },
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": "req_123", "idempotency_key": "idempotency-key-123"},
            "type": "customer.created",
        },
        indent=2,
    )
    + "\n"
).encode()
PUBLISHED: Final = (
    b"t=1533204620,v1=2220f87ef101a04665f11cdf770523143f875572008577fa0f20882ddb9cc3c7,"
    b"v0=63f3a72374a733066c4be69ed7f8e5ac85c22c9f0a6a612ab9a025a9e4ee7eef"
)


def verify(header: bytes, body: bytes, *secrets: str, now: float = NOW) -> Key | BadSignature:
    keys = [Key(label=secret, secret=secret.encode()) for secret in secrets]
    return scheme.verify(keys=keys, headers=[(b"stripe-signature", header)], body=body, now=now)


def test_the_published_vector_verifies() -> None:
    assert isinstance(verify(PUBLISHED, PUBLISHED_BODY, "webhook_secret", now=NOW + 100), Key)
    assert verify(PUBLISHED, PUBLISHED_BODY, "webhook_secret", now=NOW + 301) is BadSignature.STALE
    assert verify(PUBLISHED, PUBLISHED_BODY.rstrip(), "webhook_secret") is BadSignature.INVALID


@pytest.mark.parametrize("body", [b"{}", PUBLISHED_BODY, '{"name": "Zoë"}'.encode(), b""])
def test_what_stripes_library_signs_verifies(body: bytes) -> None:
    made = stripe.WebhookSignature._compute_signature(f"{NOW}.{body.decode()}", SECRET)
    assert isinstance(verify(f"t={NOW},v1={made}".encode(), body, SECRET), Key)


def test_stripes_library_verifies_what_we_sign() -> None:
    header = scheme.sign(SECRET.encode(), PUBLISHED_BODY, now=NOW, event_id="")["Stripe-Signature"]
    assert stripe.WebhookSignature.verify_header(PUBLISHED_BODY.decode(), header, SECRET)


def test_during_a_rotation_either_secret_verifies() -> None:
    old, new = (stripe.WebhookSignature._compute_signature(f"{NOW}.{{}}", secret) for secret in ("old", "new"))
    header = f"t={NOW},v1={new},v1={old},v0=fake".encode()
    for secret in ("old", "new"):
        verdict = verify(header, b"{}", secret)
        assert isinstance(verdict, Key)
    assert verify(header, b"{}", "third") is BadSignature.INVALID


@pytest.mark.parametrize(
    "header",
    [
        b"t=1533204620",
        b"v1=2220f87ef101a04665f11cdf770523143f875572008577fa0f20882ddb9cc3c7",
        PUBLISHED.replace(b"v1=", b"v2="),
        PUBLISHED + b",t=1533204621",
        PUBLISHED.replace(b",", b", "),
        PUBLISHED.replace(b"t=1533204620", b"t=1533204621"),
    ],
)
def test_any_other_header_is_invalid(header: bytes) -> None:
    assert verify(header, PUBLISHED_BODY, "webhook_secret") is BadSignature.INVALID
