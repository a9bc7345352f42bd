"""Forms in which providers show secrets, and what comes out of them: HMAC keys and Ed25519 keys.

An error says what was expected and holds nothing of the secret. `WrongSecretError` refuses an empty secret, text that
is not of its form, a public key where a secret is needed, and a private key where the public one verifies.
"""

import base64
import binascii
import re
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ingress.schemes.scheme import WrongSecretError

FORMS: Final = ("raw", "hex", "base64", "whsec")
"""raw: the text itself. whsec: base64 after `whsec_` (`whpk_` and `whsk_` for Ed25519), with or without it, or as
Supabase shows it, with the version of the signature before it: `v1,whsec_`."""

_SECRET, _PUBLIC, _PRIVATE = b"whsec_", b"whpk_", b"whsk_"
_WHSEC: Final = re.compile(rb"(?:(?:v1a?,)?(whsec_|whpk_|whsk_))?(.*)", re.DOTALL)
_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/=]")
_NOT_HEX: Final = re.compile(rb"[^0-9A-Fa-f]")
_ED25519_BYTES: Final = 32


def is_for_ed25519(text: bytes) -> bool:
    """Return whether a secret of the form whsec is a key for Ed25519."""
    return _split(text, "whsec")[0] in {_PUBLIC, _PRIVATE}


def read_hmac_key(text: bytes, form: str) -> bytes:
    """Return the bytes that go into the HMAC."""
    prefix, rest = _split(text, form)
    if prefix in {_PUBLIC, _PRIVATE}:
        raise WrongSecretError("this is an Ed25519 key (whpk_ or whsk_); the scheme needs a shared secret (whsec_)")
    key = _decode(rest, form)
    if not key:
        raise WrongSecretError("the secret is empty")
    return key


def read_public_key(text: bytes, form: str) -> Ed25519PublicKey:
    """Return the key that verifies Ed25519 signatures."""
    prefix, rest = _split(text, form)
    if prefix in {_SECRET, _PRIVATE}:
        raise WrongSecretError("the provider's public key (whpk_) is expected, not a secret one")
    key = _decode(rest, form)
    if len(key) != _ED25519_BYTES:
        raise WrongSecretError(f"an Ed25519 public key has {_ED25519_BYTES} bytes, this one has {len(key)}")
    try:
        return Ed25519PublicKey.from_public_bytes(key)
    except ValueError:
        raise WrongSecretError("these bytes are no Ed25519 public key") from None


def read_private_key(text: bytes, form: str) -> Ed25519PrivateKey:
    """Return the key that signs: 32 bytes of seed, or 64 where the public key follows the seed."""
    prefix, rest = _split(text, form)
    if prefix == _PUBLIC:
        raise WrongSecretError("a public key (whpk_) verifies; only the provider's private one (whsk_) can sign")
    key = _decode(rest, form)
    if len(key) not in {_ED25519_BYTES, 2 * _ED25519_BYTES}:
        raise WrongSecretError(f"an Ed25519 private key has {_ED25519_BYTES} or {2 * _ED25519_BYTES} bytes")
    return Ed25519PrivateKey.from_private_bytes(key[:_ED25519_BYTES])


def _split(text: bytes, form: str) -> tuple[bytes, bytes]:
    """Return the prefix that tells what the secret is, empty if there is none, and the rest."""
    fits = _WHSEC.fullmatch(text) if form == "whsec" else None
    return (fits[1] or b"", fits[2]) if fits else (b"", text)


def _decode(text: bytes, form: str) -> bytes:
    if form == "raw":
        return text
    try:
        if form == "hex":
            return binascii.unhexlify(text)
        # Some providers leave the padding out; nothing else is forgiven.
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        name, others = ("hexadecimal digits", _NOT_HEX) if form == "hex" else ("base64", _NOT_BASE64)
        wrong = others.search(text)
        where = f"character {wrong.start() + 1} of {len(text)} is something else" if wrong else "a part is missing"
        raise WrongSecretError(
            f"the secret is not {name} ({where}): copy it again, without quotes or spaces; if the provider shows it "
            'exactly so, it may sign with the text itself, which key = "raw" in a scheme file says'
        ) from None
