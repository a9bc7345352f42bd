"""Every answer but 200, as one closed family, and the log lines about them.

Guarantees: each is JSON, `{"error": {"code": ..., "message": ...}}`; logs and metrics use the same code; no answer
tells a caller anything about the inside; every 503 has `Retry-After`.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Send

log: Final = logging.getLogger(__name__)

LOG_EVERY_SECONDS: Final = 60.0
"""Between two log lines about the same endpoint and code."""
RETRY_AFTER_SECONDS: Final = 5

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
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
    headers: tuple[Header, ...] = ()
    closes: bool = False
    body: bytes = field(init=False, repr=False, compare=False)
    _starts: tuple[Message, Message] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Build the messages once: a refusal costs no more than an acknowledgement."""
        body = json.dumps({"error": {"code": self.code, "message": self.message}}, separators=(",", ":")).encode()
        headers = [*json_headers(len(body)), *self.headers]
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
        keeps, closes = (
            {"type": "http.response.start", "status": self.status, "headers": [*headers, *more]}
            for more in ((), ((b"connection", b"close"),))
        )
        object.__setattr__(self, "body", body)
        object.__setattr__(self, "_starts", (closes if self.closes else keeps, closes))

    async def start(self, send: Send) -> None:
        """Send everything but the end of an answer after which the connection closes."""
        await send(self._starts[True])
        await send({"type": "http.response.body", "body": self.body, "more_body": True})

    async def answer(self, send: Send, *, close: bool = False) -> None:
        """Send the answer; `close` ends the connection after it."""
        await send(self._starts[close])
        await send({"type": "http.response.body", "body": self.body})

    def raw(self) -> bytes:
        """Return the answer as it stands on the wire, for where no ASGI request exists; it closes the connection."""
        lines = b"".join(b"%b: %b\r\n" % header for header in self._starts[True]["headers"])
        phrase = HTTPStatus(self.status).phrase.encode()
        return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (self.status, phrase, lines, self.body)


def json_headers(length: int) -> list[Header]:
    """Return the headers of a JSON body of so many bytes."""
    return [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]


class RefusalLog:
    """Logs refusals of registered endpoints, at most one line a minute for each endpoint and code.

    A stranger who knows a path can cause lines, but their number is bounded by the registry, not by requests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str, str], tuple[float, int]] = {}
        """When the last line was logged, and the refusals since then, by provider, tenant and code."""

    def add(self, refusal: Refusal, *, provider: str, tenant: str) -> None:
        """Count one refusal of a registered endpoint; log a line if none was logged lately."""
        key = (provider, tenant, refusal.code)
        now = self._clock()
        logged_at, unlogged = self._seen.get(key, (float("-inf"), 0))
        if now - logged_at < LOG_EVERY_SECONDS:
            self._seen[key] = logged_at, unlogged + 1
            return
        self._seen[key] = now, 0
        more = f", and {unlogged} since the last such line" if unlogged else ""
        about = {"provider": provider, "tenant": tenant, "code": refusal.code}
        log.warning("refused a request for %s/%s: %s%s", *about.values(), more, extra=about)


MALFORMED_REQUEST: Final = Refusal(
    status=400, code="malformed_request", message="This is not an HTTP request that can be read.", closes=True
)
MISSING_SIGNATURE: Final = Refusal(
    status=401, code="missing_signature", message="The request carries no signature header."
)
INVALID_SIGNATURE: Final = Refusal(
    status=401, code="invalid_signature", message="The signature does not fit the body and any secret of the endpoint."
)
STALE_SIGNATURE: Final = Refusal(
    status=401,
    code="stale_signature",
    message="The signature is right, but its time is too far from this server's clock: sign each attempt anew.",
)
WRONG_VERIFY_TOKEN: Final = Refusal(
    status=403, code="wrong_verify_token", message="The verify token is not the one of this endpoint."
)
UNKNOWN_ENDPOINT: Final = Refusal(status=404, code="unknown_endpoint", message="There is no such endpoint.")
METHOD_NOT_ALLOWED: Final = Refusal(
    status=405, code="method_not_allowed", message="Webhooks are sent with POST.", headers=((b"allow", b"POST"),)
)
BODY_TIMEOUT: Final = Refusal(status=408, code="body_timeout", message="The body did not arrive in time.", closes=True)
BODY_TOO_LARGE: Final = Refusal(
    status=413, code="body_too_large", message="The body is larger than this server accepts.", closes=True
)
HEADERS_TOO_LARGE: Final = Refusal(
    status=431, code="headers_too_large", message="The headers are larger than this server accepts.", closes=True
)
RATE_LIMITED: Final = Refusal(
    status=429, code="rate_limited", message="The tenant sends more events than its rate allows; send it again later."
)
INTERNAL_ERROR: Final = Refusal(
    status=500, code="internal_error", message="An unexpected error; nothing was accepted.", closes=True
)
INBOX_UNAVAILABLE: Final = Refusal(
    status=503,
    code="inbox_unavailable",
    message="The event cannot be stored now; nothing was accepted, send it again later.",
)
INBOX_SHARE_FULL: Final = Refusal(
    status=503,
    code="inbox_share_full",
    message="Events of this tenant that still wait fill its share of the inbox; send the event again later.",
)
ENDPOINT_UNREADABLE: Final = Refusal(
    status=503,
    code="endpoint_unreadable",
    message="The endpoint's configuration cannot be read by this server; send the event again later.",
)
TOO_BUSY: Final = Refusal(
    status=503, code="too_busy", message="Too many bodies are on their way; send the event again later.", closes=True
)
TOO_MANY_CONNECTIONS: Final = Refusal(
    status=503,
    code="too_many_connections",
    message="Too many connections are open; send the event again later.",
    closes=True,
)


@lru_cache(maxsize=100)
def rate_limited(seconds: int) -> Refusal:
    """Return `RATE_LIMITED` with the seconds after which an event is taken again."""
    return replace(RATE_LIMITED, headers=((b"retry-after", str(seconds).encode()),))
