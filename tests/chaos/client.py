"""HTTP as a provider speaks it, and as no provider would: bodies, signatures, one kept connection, raw bytes.

Every request ends as exactly one of: a status, refused (nobody listened), cut (the connection ended before the answer),
hung (no answer in time).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tests import moveris

REFUSED: Final = "refused"
CUT: Final = "cut"
HUNG: Final = "hung"


def signature(secret: bytes, body: bytes) -> bytes:
    """Return the value of the signature header as it stands on the wire."""
    return moveris.signature(secret, body).encode()


def post(path: str, body: bytes, signed: bytes) -> bytes:
    """Return a request as it stands on the wire."""
    return (
        b"POST %b HTTP/1.1\r\nhost: chaos\r\ncontent-type: application/json\r\nx-webhook-signature: %b\r\n"
        b"content-length: %d\r\n\r\n%b" % (path.encode(), signed, len(body), body)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back.

    Attributes:
        status: of the response; 0 if there was none.
        failure: why there was none.
        body: of the response.
        closes: the server will close the connection.
    """

    status: int
    failure: str = ""
    body: bytes = b""
    closes: bool = False

    @property
    def outcome(self) -> str:
        """The status as text, or the failure."""
        return self.failure or str(self.status)


class Connection:
    """One connection that is kept between requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent on it: the server has not closed it as far as we know."""
        return (
            self._writer is not None
            and self._reader is not None
            and not self._reader.at_eof()
            and self._reader.exception() is None
            and not self._writer.is_closing()
        )

    async def send(self, request: bytes, *, seconds: float) -> Answer:
        """Send one request and read its answer."""
        try:
            async with asyncio.timeout(seconds):
                if not self.is_open:
                    self.close()
                    try:
                        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
                    except OSError:
                        return Answer(status=0, failure=REFUSED)
                assert self._reader is not None
                assert self._writer is not None
                self._writer.write(request)
                answer = await read_answer(self._reader)
        except TimeoutError:
            self.close()
            return Answer(status=0, failure=HUNG)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            return Answer(status=0, failure=CUT)
        if answer.closes:
            self.close()
        return answer

    def close(self) -> None:
        """Close it."""
        if self._writer is not None:
            with suppress(OSError, RuntimeError):
                self._writer.transport.abort()
        self._reader = self._writer = None


async def read_answer(reader: asyncio.StreamReader, *, is_head: bool = False) -> Answer:
    """Read one response with a Content-Length, which for a HEAD request is that of a body that does not come.

    Raises:
        asyncio.IncompleteReadError: the connection ended before.
        ValueError: it is no response that this reads.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    status = int(first.split(b" ", 2)[1])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    length = 0 if is_head else int(headers.get(b"content-length", b"0"))
    body = await reader.readexactly(length)
    return Answer(status=status, body=body, closes=headers.get(b"connection", b"").lower() == b"close")
