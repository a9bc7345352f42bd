"""Forms in which providers show secrets, and what comes out of them: HMAC keys and Ed25519 keys.

Guarantees: an error says what was expected and nothing of the secret. Refuses (`WrongSecretError`): an empty secret,
text that is not of its form, a public key where a secret is needed, a private key where the public one verifies.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ingress.schemes.verdict import WrongSecretError

FORMS: Final = ("raw", "hex", "base64", "whsec")
"""raw: the text itself; whsec: base64 behind `whsec_` (or `whpk_` and `whsk_` for Ed25519), with or without it."""

PUBLIC_PREFIX: Final = b"whpk_"
PRIVATE_PREFIX: Final = b"whsk_"
_SECRET_PREFIX: Final = b"whsec_"
_ED25519_BYTES: Final = 32


def read_hmac_key(text: bytes, form: str) -> bytes:
    """Return the bytes that go into the HMAC."""
    if form == "whsec" and text.startswith((PUBLIC_PREFIX, PRIVATE_PREFIX)):
        raise WrongSecretError("this is an Ed25519 key (whpk_ or whsk_); the scheme needs a shared secret (whsec_)")
    key = _decode(text.removeprefix(_SECRET_PREFIX) if form == "whsec" else text, form)
    if not key:
        raise WrongSecretError("the secret is empty")
    return key


def read_public_key(text: bytes, form: str) -> Ed25519PublicKey:
    """Return the key that verifies Ed25519 signatures."""
    if form == "whsec" and text.startswith((_SECRET_PREFIX, PRIVATE_PREFIX)):
        raise WrongSecretError("the provider's public key (whpk_) is expected, not a secret one")
    key = _decode(text.removeprefix(PUBLIC_PREFIX) if form == "whsec" else text, form)
    if len(key) != _ED25519_BYTES:
        raise WrongSecretError(f"an Ed25519 public key has {_ED25519_BYTES} bytes, this one has {len(key)}")
    try:
        return Ed25519PublicKey.from_public_bytes(key)
    except ValueError:
        raise WrongSecretError("these bytes are no Ed25519 public key") from None


def read_private_key(text: bytes, form: str) -> Ed25519PrivateKey:
    """Return the key that signs; 32 bytes of seed, or 64 with the public key behind it."""
    if form == "whsec" and text.startswith(PUBLIC_PREFIX):
        raise WrongSecretError("a public key (whpk_) verifies; only the provider's private one (whsk_) can sign")
    key = _decode(text.removeprefix(PRIVATE_PREFIX) if form == "whsec" else text, form)
    if len(key) not in {_ED25519_BYTES, 2 * _ED25519_BYTES}:
        raise WrongSecretError(f"an Ed25519 private key has {_ED25519_BYTES} or {2 * _ED25519_BYTES} bytes")
    return Ed25519PrivateKey.from_private_bytes(key[:_ED25519_BYTES])


def _decode(text: bytes, form: str) -> bytes:
    if form == "raw":
        return text
    try:
        if form == "hex":
            return binascii.unhexlify(text)
        # Some providers leave the padding out; nothing else is forgiven.
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        name = "hexadecimal digits, two for each byte" if form == "hex" else "base64"
        raise WrongSecretError(f"the secret is not {name}: copy it again, without quotes or spaces") from None
