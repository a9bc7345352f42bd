"""Signatures made by others than us, and what makes one wrong."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from ingress.schemes import PRESETS, find
from ingress.schemes.scheme import BadSignature, Key

moveris = find("moveris")

KEY = Key(label="portal", secret=b"It's a Secret to Everybody")
BODY = b"Hello, World!"
PUBLISHED = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
"""The test vector in GitHub's documentation of the same scheme."""
NAME = b"x-webhook-signature"


def verify(*values: bytes, keys: tuple[Key, ...] = (KEY,), body: bytes = BODY) -> Key | BadSignature:
    return moveris.verify(keys=keys, headers=[(NAME, value) for value in values], body=body, now=0)


def test_the_published_vector_verifies() -> None:
    assert verify(PUBLISHED) is KEY


def test_signing_gives_the_published_vector() -> None:
    assert moveris.sign(KEY.secret, BODY) == {"X-Webhook-Signature": PUBLISHED.decode()}


def test_the_header_is_the_hmac_of_the_raw_body() -> None:
    body = b'{ "spaces" : "kept",\r\n "raw": "\xff\x00" }'
    digest = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert moveris.sign(b"s3cret", body) == {"X-Webhook-Signature": f"sha256={digest}"}


def test_moveris_is_found_by_its_name() -> None:
    assert moveris is PRESETS["moveris"]


@pytest.mark.parametrize("values", [(), (b"",)], ids=["absent", "empty"])
def test_no_signature_is_missing(values: tuple[bytes, ...]) -> None:
    assert verify(*values) is BadSignature.MISSING


@pytest.mark.parametrize(
    "values",
    [
        pytest.param((PUBLISHED.upper(),), id="upper-case throughout"),
        pytest.param((b"sha256=" + PUBLISHED[7:].upper(),), id="upper-case hex of the right digest"),
        pytest.param((PUBLISHED, PUBLISHED), id="twice"),
        pytest.param((b"", PUBLISHED), id="twice, one empty"),
        pytest.param((PUBLISHED + b"," + PUBLISHED,), id="twice in one header"),
        pytest.param((PUBLISHED[7:],), id="no prefix"),
        pytest.param((b"sha1=" + PUBLISHED[7:],), id="another algorithm's name"),
        pytest.param((b"sha512=" + hmac.new(KEY.secret, BODY, "sha512").hexdigest().encode(),), id="SHA-512"),
        pytest.param((b"sha1=" + hmac.new(KEY.secret, BODY, "sha1").hexdigest().encode(),), id="SHA-1"),
        pytest.param((PUBLISHED[:-1],), id="one digit short"),
        pytest.param((PUBLISHED + b"0",), id="one digit long"),
        pytest.param((PUBLISHED + b" ",), id="a space behind"),
        pytest.param((b"sha256=" + "\uff17".encode() * 64,), id="digits that are not ASCII"),
        pytest.param((b"\xff\x00\xfe",), id="no text at all"),
        pytest.param((b"sha256=" + b"0" * 64,), id="zeros"),
    ],
)
def test_any_other_spelling_is_invalid(values: tuple[bytes, ...]) -> None:
    assert verify(*values) is BadSignature.INVALID


def test_any_living_key_may_sign_and_is_the_one_returned() -> None:
    keys = (Key(label="old", secret=b"old"), KEY, Key(label="new", secret=b"new"))
    assert verify(PUBLISHED, keys=keys) is KEY


def test_without_keys_nothing_verifies() -> None:
    assert verify(PUBLISHED, keys=()) is BadSignature.INVALID


def test_a_changed_body_does_not_verify() -> None:
    assert verify(PUBLISHED, body=BODY + b"\n") is BadSignature.INVALID
