"""What every signature scheme takes and returns: keys and headers in, the key that signed or a verdict out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One secret in clear.

    Attributes:
        label: the name that the team gave it; kept on every event it verified.
        secret: the bytes as the provider showed them; never printed.
        expires_at: Unix seconds from which it verifies nothing; infinity if never.
    """

    label: str
    secret: bytes = field(repr=False)
    expires_at: float = float("inf")


class Wrong(Enum):
    """Why a signature proves nothing."""

    MISSING = "missing_signature"
    INVALID = "invalid_signature"


class Scheme(Protocol):
    """One provider's way to sign. A module with these two functions is a scheme."""

    def verify(
        self, *, keys: Sequence[Key], headers: Sequence[tuple[bytes, bytes]], body: bytes, now: float
    ) -> Key | Wrong:
        """Find the key that signed the request.

        Args:
            keys: those that are alive; any of them may have signed.
            headers: as ASGI has them: names in lower case, values any bytes, in order, repetitions kept.
            body: the bytes as received.
            now: Unix seconds, for schemes that sign a time.

        Returns:
            The key, or why none fits. Nothing is raised, whatever the bytes are.
        """
        ...

    def sign(self, secret: bytes, body: bytes) -> dict[str, str]:
        """Return the headers with which the provider would send this body."""
        ...
