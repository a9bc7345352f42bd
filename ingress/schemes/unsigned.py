"""`none`: the provider signs nothing. Whoever knows the path may post, so the path is the secret.

The endpoint answers at `/webhooks/{provider}/{tenant}/{token}` only, 404 elsewhere. The token is the endpoint's
"secret" in the registry: encrypted there, with a label and an expiry, several alive during a rotation, compared in
constant time. It travels in URLs, so proxies may log it: a signature is better wherever a provider has one.
"""

import hmac
import re
from collections.abc import Sequence
from typing import Final

from ingress.schemes.scheme import NEVER, BadSignature, Handshake, Key, WrongSecretError

_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]{32,200}")


class Unsigned:
    """The scheme of unsigned requests; `OPENED` is that of one whose path ended in a token, which is its only key."""

    handshake: Final = Handshake.NONE
    signed_ids: Final[Sequence[bytes]] = ()

    def read_key(self, *, label: str, text: bytes, expires_at: float = NEVER) -> Key:
        """Take a token of a path."""
        if not _TOKEN.fullmatch(text):
            raise WrongSecretError("the token of the path needs 32 to 200 letters, digits, - and _, and must be random")
        return Key(label=label, secret=text, expires_at=expires_at)

    def verify(
        self, *, keys: Sequence[Key], headers: Sequence[tuple[bytes, bytes]], body: bytes, now: float
    ) -> Key | BadSignature:
        """Return the key that the path named, unless it has expired while the body arrived."""
        del headers, body, now
        return keys[0] if self is OPENED and keys else BadSignature.NO_PATH

    def sign(self, secret: bytes, body: bytes, *, now: float = 0, event_id: str = "") -> dict[str, str]:
        """Return no header."""
        del secret, body, now, event_id
        return {}


SCHEME: Final = Unsigned()
OPENED: Final = Unsigned()


def find_token(keys: Sequence[Key], token: str) -> Key | None:
    """Return the key whose token ends the path."""
    given = token.encode("utf-8", "replace")
    return next((key for key in keys if hmac.compare_digest(key.secret, given)), None)
