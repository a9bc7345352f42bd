"""How a digest is written in a header: exactly one spelling each, so that signatures are compared as text.

`decode` raises nothing and takes no second spelling of the same bytes. Base64 leaves bits of its last character unused,
so that two texts could otherwise stand for one Ed25519 signature.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _hex(digest: bytes) -> bytes:
    return digest.hex().encode()


def _hex_upper(digest: bytes) -> bytes:
    return digest.hex().upper().encode()


def _base64(digest: bytes) -> bytes:
    return binascii.b2a_base64(digest, newline=False)


def _base64url_unpadded(digest: bytes) -> bytes:
    return urlsafe_b64encode(digest).rstrip(b"=")


ENCODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "hex": _hex,
    "hex-upper": _hex_upper,
    "base64": _base64,
    "base64url": urlsafe_b64encode,
    "base64url-unpadded": _base64url_unpadded,
}


def decode(text: bytes, encoding: str) -> bytes | None:
    """Return the bytes that a text stands for, None if it is not the one spelling of any."""
    try:
        if encoding.startswith("hex"):
            digest = binascii.unhexlify(text)
        else:
            digest = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except ValueError:
        return None
    return digest if ENCODERS[encoding](digest) == text else None
