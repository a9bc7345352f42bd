"""What every signature scheme takes and returns: keys and headers in, the key that signed out, or why none did."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

NEVER: Final = float("inf")


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


class Scheme(Protocol):
    """One provider's way to sign; an object or a module."""

    @property
    def handshake(self) -> Handshake:
        """What the provider asks before it sends events."""

    @property
    def signed_ids(self) -> Sequence[bytes]:
        """Headers, in lower case, whose first one present is the event's id and part of what is signed."""

    def read_key(self, *, label: str, text: bytes, expires_at: float = NEVER) -> Key:
        """Turn a secret as the provider shows it into what verifies.

        Raises:
            WrongSecretError: it is not of the scheme's form.
        """
        ...

    def verify(
        self, *, keys: Sequence[Key], headers: Sequence[tuple[bytes, bytes]], body: bytes, now: float
    ) -> Key | BadSignature:
        """Return the key that signed the request.

        Args:
            keys: those that are alive; any of them may have signed.
            headers: as ASGI has them: names in lower case, values any bytes, in order, repetitions kept.
            body: the bytes as received.
            now: Unix seconds, for schemes that sign a time.

        Returns:
            The key, or why none fits. Nothing is raised, whatever the bytes are.
        """
        ...

    def sign(self, secret: bytes, body: bytes, *, now: float, event_id: str) -> dict[str, str]:
        """Return the headers with which the provider would send this body.

        Args:
            secret: as the provider shows it; for Ed25519 the private key.
            body: the bytes to send.
            now: Unix seconds, for schemes that sign a time.
            event_id: for schemes that sign an id.

        Raises:
            WrongSecretError: it cannot sign.
        """
        ...
