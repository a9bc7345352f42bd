"""Described schemes against the vectors of the RFCs: every algorithm and encoding."""

from __future__ import annotations

import base64
from typing import Final

import pytest

from ingress.schemes import compose, find
from ingress.schemes.scheme import Key

# RFC 4231 and RFC 2202, test case 2; RFC 8032, 7.1, test 3.
JEFE: Final = b"Jefe"
QUESTION: Final = b"what do ya want for nothing?"
SHA256: Final = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
SHA512: Final = (
    "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b"
    "636e070a38bce737"
)
SHA1: Final = "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"
ED25519_PUBLIC: Final = "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
ED25519_BODY: Final = bytes.fromhex("af82")
ED25519: Final = (
    "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
    "c027beceea1ec40a"
)


@pytest.mark.parametrize(
    ("algorithm", "digest"), [("hmac-sha256", SHA256), ("hmac-sha512", SHA512), ("hmac-sha1", SHA1)]
)
@pytest.mark.parametrize("encoding", ["hex", "hex-upper", "base64", "base64url", "base64url-unpadded"])
def test_the_vectors_of_the_rfcs_verify(algorithm: str, digest: str, encoding: str) -> None:
    raw = bytes.fromhex(digest)
    text = {
        "hex": digest.encode(),
        "hex-upper": digest.upper().encode(),
        "base64": base64.b64encode(raw),
        "base64url": base64.urlsafe_b64encode(raw),
        "base64url-unpadded": base64.urlsafe_b64encode(raw).rstrip(b"="),
    }[encoding]
    scheme = compose({"header": "X-Signature", "algorithm": algorithm, "encoding": encoding})
    key = Key(label="a", secret=JEFE)
    assert scheme.verify(keys=[key], headers=[(b"x-signature", text)], body=QUESTION, now=0) is key
    assert scheme.sign(JEFE, QUESTION, now=0, event_id="") == {"X-Signature": text.decode()}


def test_the_generic_preset_is_hex_of_sha_256() -> None:
    assert find("hmac").sign(JEFE, QUESTION, now=0, event_id="") == {"X-Signature": SHA256}


def test_the_vector_of_ed25519_verifies() -> None:
    scheme = compose({"header": "X-Signature", "algorithm": "ed25519", "key": "hex"})
    key = scheme.read_key(label="a", text=ED25519_PUBLIC.encode())
    assert scheme.verify(keys=[key], headers=[(b"x-signature", ED25519.encode())], body=ED25519_BODY, now=0) is key
