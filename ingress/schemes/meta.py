"""Meta (WhatsApp, Messenger, Instagram): GitHub's signature, and `hub.challenge` on GET before the first event.

The verify token that Meta asks for is derived from the app's secret (`ingress.schemes.handshakes`): nothing more to
store, and `pipeline endpoints add` prints it. No time and no id is signed.
"""

from ingress.schemes.declared import declare

SCHEME = declare(
    header="X-Hub-Signature-256",
    algorithm="hmac-sha256",
    encoding="hex",
    prefix="sha256=",
    handshake="hub.challenge",
)
verify, sign = SCHEME.verify, SCHEME.sign
