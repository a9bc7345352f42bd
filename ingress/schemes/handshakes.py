"""What providers ask before they send events, and the answers.

Only a sender that proves to hold the secret is answered, with a short text of printable ASCII. This is the only place
where the ingress reads JSON: small, signed bodies that name themselves `url_verification`.
"""

import hmac
import json
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl

from ingress.schemes.scheme import Key

_MAX_BODY: Final = 4096
_MAX_CHALLENGE: Final = 1000
_MAX_FIELDS: Final = 16
_TOKEN_DIGITS: Final = 32


def answer_url_verification(body: bytes) -> bytes | None:
    """Return the challenge of Slack's `url_verification`, None for any other body.

    Args:
        body: whose signature has been verified.
    """
    if len(body) > _MAX_BODY or b"url_verification" not in body:
        return None
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(tree, dict) or tree.get("type") != "url_verification":
        return None
    return _challenge(tree.get("challenge"))


def answer_hub_challenge(query: bytes, keys: Sequence[Key]) -> bytes | None:
    """Return `hub.challenge` of a subscription request (GET) whose verify token one of the keys explains, else None."""
    try:
        fields = dict(parse_qsl(query.decode("ascii"), max_num_fields=_MAX_FIELDS))
    except ValueError:
        return None
    token = fields.get("hub.verify_token", "").encode()
    if fields.get("hub.mode") != "subscribe" or not any(
        [hmac.compare_digest(verify_token(key.secret).encode(), token) for key in keys if key.secret]  # noqa: C419
    ):
        return None
    return _challenge(fields.get("hub.challenge"))


def verify_token(secret: bytes) -> str:
    """Return the verify token to enter at the provider: derived from the secret, and of no use as a signature."""
    return hmac.digest(secret, b"hub.verify_token", "sha256").hex()[:_TOKEN_DIGITS]


def _challenge(value: object) -> bytes | None:
    if isinstance(value, str) and 0 < len(value) <= _MAX_CHALLENGE and value.isascii() and value.isprintable():
        return value.encode()
    return None
