"""Shopify: a vector that somebody else computed; Shopify publishes none."""

from __future__ import annotations

from typing import Final

import pytest

from ingress.schemes import find
from ingress.schemes.scheme import BadSignature, Key

shopify = find("shopify")

# From the tests of SQLPage (MIT), which compute it in Rust for this very header.
SECRET: Final = b"test-webhook-secret"
BODY: Final = b'{"id":1234567890,"email":"customer@example.com","total_price":"123.45"}'
MADE: Final = b"QNyObTlKbMx2qDlPF/ZOZcBqg5OgPg+2oky3zldc0Gw="
KEY: Final = Key(label="a", secret=SECRET)


@pytest.mark.parametrize("name", [b"x-shopify-hmac-sha256", b"shopify-hmac-sha256"])
def test_the_vector_verifies_under_both_spellings_of_the_header(name: bytes) -> None:
    assert shopify.verify(keys=[KEY], headers=[(name, MADE)], body=BODY, now=0) is KEY
    assert shopify.verify(keys=[KEY], headers=[(name, MADE)], body=BODY + b" ", now=0) is BadSignature.INVALID
    assert shopify.verify(keys=[KEY], headers=[(name, MADE.rstrip(b"="))], body=BODY, now=0) is BadSignature.INVALID


def test_signing_gives_the_vector() -> None:
    assert shopify.sign(SECRET, BODY, now=0, event_id="") == {"X-Shopify-Hmac-Sha256": MADE.decode()}
