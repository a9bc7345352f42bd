"""Slack: `X-Slack-Signature: v0=<hex HMAC-SHA256>` of `v0:{X-Slack-Request-Timestamp}:{body}`.

A `url_verification` request, which Slack sends when the URL is entered, is answered with its challenge and stored
nowhere; it must be signed like any other.
"""

from ingress.schemes.declared import declare

SCHEME = declare(
    header="X-Slack-Signature",
    algorithm="hmac-sha256",
    encoding="hex",
    prefix="v0=",
    content="v0:{timestamp}:{body}",
    timestamp="X-Slack-Request-Timestamp",
    handshake="url_verification",
)
verify, sign = SCHEME.verify, SCHEME.sign
