"""Slack: `X-Slack-Signature: v0=<hex HMAC-SHA256>` of `v0:{X-Slack-Request-Timestamp}:{body}`.

A `url_verification` request, which Slack sends when the URL is entered, is answered with its challenge and stored
nowhere; it must be signed like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ingress.schemes.declared import declare

if TYPE_CHECKING:
    from collections.abc import Mapping

DESCRIPTION: Final[Mapping[str, Any]] = {
    "header": "X-Slack-Signature",
    "algorithm": "hmac-sha256",
    "encoding": "hex",
    "prefix": "v0=",
    "content": "v0:{timestamp}:{body}",
    "timestamp": "X-Slack-Request-Timestamp",
    "handshake": "url_verification",
}
SCHEME: Final = declare(DESCRIPTION)
verify, sign = SCHEME.verify, SCHEME.sign
