"""A request that somebody captured, and the secrets of the endpoint that it was sent to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared.registry import Cipher, Endpoint
from workers.store.tenants import is_alive

Headers = Sequence[tuple[bytes, bytes]]
"""As ASGI has them: names in lower case."""


class HeadersError(ValueError):
    """A text that holds no headers; that of the error is one line, to be read after where the text is from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSecret:
    """A secret of the endpoint, in clear; `note` says why it may not sign now, if so."""

    label: str
    text: bytes = field(repr=False)
    note: str = ""


def decrypt_secrets(endpoint: Endpoint, cipher: Cipher, *, now: float) -> list[EndpointSecret]:
    """Decrypt all secrets, those that may not sign at `now` (Unix seconds) too: one of them may be the one that did."""
    at = datetime.fromtimestamp(now, UTC)
    notes = ["" if is_alive(it, at) else f"expired since {it.expires_at}" for it in endpoint.secrets]
    return [
        EndpointSecret(label=it.label, text=cipher.decrypt(it), note=note)
        for it, note in zip(endpoint.secrets, notes, strict=True)
    ]


def read_headers(text: str) -> Headers:
    """Read headers as curl, proxies and browsers show them; a request line and marks before lines are left out.

    Raises:
        HeadersError: there are none.
    """
    if text.lstrip().startswith("{"):
        try:
            pairs = [(name, str(value)) for name, value in json.loads(text).items()]
        except ValueError as error:
            raise HeadersError(f"is no JSON object of headers: {error}") from None
    else:
        lines = (line.strip().removeprefix("> ").removeprefix("< ") for line in text.splitlines())
        pairs = [(name, value) for name, colon, value in (line.partition(":") for line in lines) if colon]
    if not pairs:
        raise HeadersError('holds no headers: write one a line, as "X-Signature: sha256=..."')
    return [(_bytes(name.lower()), _bytes(value)) for name, value in pairs if " " not in name.strip()]


def _bytes(text: str) -> bytes:
    return text.strip().encode("utf-8", "surrogateescape")
