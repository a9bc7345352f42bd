"""Moveris: `X-Webhook-Signature: sha256=<hex HMAC-SHA256 of the raw body>`; GitHub's published vector fits it.

Exactly one spelling is accepted: one header, the prefix `sha256=`, 64 lower-case hexadecimal digits. Upper-case hex of
the right digest is refused. The provider writes lower case, so any other spelling comes from somebody else or from a
proxy that rewrites headers, and a comparison of the whole text leaves nothing to decode that could raise. Two signature
headers are refused even if one of them fits: whoever adds a header must not be able to choose the one that counts.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Final

from ingress.schemes.verdict import Handshake, Key, Wrong, read_raw_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DESCRIPTION: Final[Mapping[str, Any]] = {
    "header": "X-Webhook-Signature",
    "algorithm": "hmac-sha256",
    "encoding": "hex",
    "prefix": "sha256=",
}
"""The same as data, for `pipeline verify` and scheme files. Followed for each request it takes 6.0 us where the code
below takes 4.4, at 1 kB."""
handshake: Final = Handshake.NONE
signed_ids: Final[Sequence[bytes]] = ()
read_key = read_raw_key

HEADER: Final = "X-Webhook-Signature"
_NAME: Final = HEADER.lower().encode()


def _signature(secret: bytes, body: bytes) -> str:
    return "sha256=" + hmac.digest(secret, body, "sha256").hex()


def verify(*, keys: Sequence[Key], headers: Sequence[tuple[bytes, bytes]], body: bytes, now: float) -> Key | Wrong:
    """Find the key that signed the body; see `ingress.schemes.verdict.Scheme`."""
    del now  # Moveris signs no time: only deduplication protects against replays
    given = [value for name, value in headers if name == _NAME]
    if not given or given == [b""]:
        return Wrong.MISSING
    if len(given) == 1:
        for key in keys:
            if hmac.compare_digest(_signature(key.secret, body).encode(), given[0]):
                return key
    return Wrong.INVALID


def sign(secret: bytes, body: bytes, *, now: float = 0, event_id: str = "") -> dict[str, str]:
    """Return the signature header that Moveris would send with this body; it signs neither time nor id."""
    del now, event_id
    return {HEADER: _signature(secret, body)}
