"""How a digest is written in a header: exactly one spelling each, so that signatures are compared as text.

`decode` raises nothing and takes no second spelling of the same bytes. Base64 leaves bits of its last character unused,
so that two texts could otherwise stand for one Ed25519 signature.
"""

import binascii
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Final

ENCODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "hex": lambda digest: digest.hex().encode(),
    "hex-upper": lambda digest: digest.hex().upper().encode(),
    "base64": b64encode,
    "base64url": urlsafe_b64encode,
    "base64url-unpadded": lambda digest: urlsafe_b64encode(digest).rstrip(b"="),
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
