"""What signature schemes take and return: a key is one secret of an endpoint, `BadSignature` says why none fits."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

NEVER: Final = float("inf")


class BadSchemeError(ValueError):
    """A description that cannot be followed; the text is one line that names the key."""


class WrongSecretError(ValueError):
    """A secret that this scheme cannot use; the text says what it expects and holds nothing of the secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One secret in clear.

    Attributes:
        label: the name that the team gave it; kept on every event it verified.
        secret: the bytes that go into the HMAC, never printed; empty for a public key.
        public_key: verifies Ed25519 signatures; None for a shared secret.
        expires_at: Unix seconds from which it verifies nothing; infinity if never.
    """

    label: str
    secret: bytes = field(repr=False)
    public_key: Ed25519PublicKey | None = field(default=None, repr=False)
    expires_at: float = NEVER


class BadSignature(Enum):
    """Why a request is not verified; the value is the code of the answer."""

    MISSING = "missing_signature"
    INVALID = "invalid_signature"
    STALE = "stale_signature"
    NO_PATH = "unknown_endpoint"


class Handshake(Enum):
    """What a provider asks before it sends events."""

    NONE = ""
    URL_VERIFICATION = "url_verification"
    HUB_CHALLENGE = "hub.challenge"
