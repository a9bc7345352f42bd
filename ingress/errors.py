"""Every answer but 200, as one closed family.

Guarantees: each is JSON, `{"error": {"code": ..., "message": ...}}`; logs and metrics use the same code; no answer
tells a caller anything about the inside; every 503 has `Retry-After`.
"""

import json
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property, lru_cache
from http import HTTPStatus
from typing import Final

from starlette.types import Message, Send

RETRY_AFTER_SECONDS: Final = 5

Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class Refusal:
    """One way to refuse a request.

    Attributes:
        status: the HTTP status.
        code: one snake_case word for response, log and metric.
        message: a sentence for the person at the other end.
        headers: what the status asks for beside type and length.
        closes: whether the rest of the connection is worth nothing.
    """

    status: int
    code: str
    message: str
    _: KW_ONLY
    headers: tuple[Header, ...] = ()
    closes: bool = False

    @cached_property
    def body(self) -> bytes:
        """The JSON that explains it."""
        return json.dumps({"error": {"code": self.code, "message": self.message}}, separators=(",", ":")).encode()

    @cached_property
    def _starts(self) -> tuple[Message, Message]:
        """The start of the answer on a connection that stays open, and on one that closes."""
        headers = [*json_headers(len(self.body)), *self.headers]
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
        closing = [*headers, (b"connection", b"close")]
        keeps, closes = (
            {"type": "http.response.start", "status": self.status, "headers": it} for it in (headers, closing)
        )
        return (closes if self.closes else keeps, closes)

    async def answer(self, send: Send, *, close: bool = False, more: bool = False) -> None:
        """Send the answer; `close` ends the connection after it, `more` leaves the end of it to the caller."""
        await send(self._starts[close])
        await send({"type": "http.response.body", "body": self.body, "more_body": more})

    def raw(self) -> bytes:
        """Return the answer as it stands on the wire, for where no ASGI request exists; it closes the connection."""
        lines = b"".join(b"%b: %b\r\n" % header for header in self._starts[True]["headers"])
        phrase = HTTPStatus(self.status).phrase.encode()
        return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (self.status, phrase, lines, self.body)


def json_headers(length: int) -> list[Header]:
    """Return the headers of a JSON body of so many bytes."""
    return [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]


MALFORMED_REQUEST: Final = Refusal(
    400, "malformed_request", "This is not an HTTP request that can be read.", closes=True
)
MISSING_SIGNATURE: Final = Refusal(401, "missing_signature", "The request carries no signature header.")
INVALID_SIGNATURE: Final = Refusal(
    401, "invalid_signature", "The signature does not fit the body and any secret of the endpoint."
)
STALE_SIGNATURE: Final = Refusal(
    401,
    "stale_signature",
    "The signature is right, but its time is too far from this server's clock: sign each attempt anew.",
)
WRONG_VERIFY_TOKEN: Final = Refusal(403, "wrong_verify_token", "The verify token is not the one of this endpoint.")
UNKNOWN_ENDPOINT: Final = Refusal(404, "unknown_endpoint", "There is no such endpoint.")
METHOD_NOT_ALLOWED: Final = Refusal(
    405, "method_not_allowed", "Webhooks are sent with POST.", headers=((b"allow", b"POST"),)
)
BODY_TIMEOUT: Final = Refusal(408, "body_timeout", "The body did not arrive in time.", closes=True)
BODY_TOO_LARGE: Final = Refusal(413, "body_too_large", "The body is larger than this server accepts.", closes=True)
HEADERS_TOO_LARGE: Final = Refusal(
    431, "headers_too_large", "The headers are larger than this server accepts.", closes=True
)
RATE_LIMITED: Final = Refusal(
    429, "rate_limited", "The tenant sends more events than its rate allows; send it again later."
)
INTERNAL_ERROR: Final = Refusal(500, "internal_error", "An unexpected error; nothing was accepted.", closes=True)
INBOX_UNAVAILABLE: Final = Refusal(
    503, "inbox_unavailable", "The event cannot be stored now; nothing was accepted, send it again later."
)
INBOX_SHARE_FULL: Final = Refusal(
    503,
    "inbox_share_full",
    "Events of this tenant that still wait fill its share of the inbox; send the event again later.",
)
ENDPOINT_UNREADABLE: Final = Refusal(
    503,
    "endpoint_unreadable",
    "The endpoint's configuration cannot be read by this server; send the event again later.",
)
TOO_BUSY: Final = Refusal(503, "too_busy", "Too many bodies are on their way; send the event again later.", closes=True)
TOO_MANY_CONNECTIONS: Final = Refusal(
    503, "too_many_connections", "Too many connections are open; send the event again later.", closes=True
)


@lru_cache(maxsize=100)
def rate_limited(seconds: int) -> Refusal:
    """Return `RATE_LIMITED` with the seconds after which an event is taken again."""
    return replace(RATE_LIMITED, headers=((b"retry-after", str(seconds).encode()),))
