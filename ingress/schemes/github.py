"""GitHub: `X-Hub-Signature-256: sha256=<hex HMAC-SHA256 of the raw body>`.

The older `X-Hub-Signature` (SHA-1), which GitHub sends beside it, is ignored. Nothing else is signed: no time (the
deduplication is the protection against replays), not `X-GitHub-Delivery`, not `X-GitHub-Event`. The ping that GitHub
sends when a webhook is made is an event like any other, of the type `ping`.
"""

from ingress.schemes.declared import declare

SCHEME = declare(
    header="X-Hub-Signature-256",
    algorithm="hmac-sha256",
    encoding="hex",
    prefix="sha256=",
)
verify, sign = SCHEME.verify, SCHEME.sign
