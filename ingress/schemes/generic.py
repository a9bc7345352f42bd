"""`hmac`, the generic scheme: `X-Signature: <hex HMAC-SHA256 of the raw body>`.

The default for services of one's own, and what a scheme file starts from that changes only a header or an encoding.
No time is signed unless the file says so.
"""

from ingress.schemes.declared import declare

SCHEME = declare(
    header="X-Signature",
    algorithm="hmac-sha256",
    encoding="hex",
)
verify, sign = SCHEME.verify, SCHEME.sign
