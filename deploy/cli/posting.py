"""Posts many requests at a steady rate over a bounded number of connections, and says what came back.

Guarantees: open loop: request n is due at start + n / rate whatever the answers take, and its time counts from when it
was due, so that waiting for a free connection is not hidden; nothing is sent twice. Refuses nothing: a connection that
fails is an answer with status 0.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from itertools import count as counting
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_IDLE_SECONDS: Final = 2.0
"""A connection idle for longer is opened anew: servers close idle ones, often in the moment they are used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for one request.

    Attributes:
        number: from 0, in the order of sending.
        status: of HTTP; 0 if there was no answer.
        id: of the event, if it was acknowledged.
        code: why not, in one word; empty if it was acknowledged.
        detail: the client's own error, if there was no answer.
        seconds: from when the request was due until the whole answer was there.
    """

    number: int
    status: int
    id: UUID | None
    code: str
    detail: str
    seconds: float


def post_many(
    url: str,
    make: Callable[[], tuple[bytes, Mapping[str, str]]],
    *,
    count: int,
    rate: float | None,
    connections: int,
    timeout: float,
) -> Iterator[Answer]:
    """Post `count` requests and yield the answers as they come.

    Args:
        url: http:// or https://, whole.
        make: returns the body and the headers of the next request; called from several threads.
        count: how many.
        rate: requests per second; None for as fast as the connections allow.
        connections: how many may be open at once.
        timeout: seconds that one answer may take.
    """
    answers: SimpleQueue[Answer | BaseException] = SimpleQueue()
    numbers, stopped, start = counting(), threading.Event(), time.monotonic()

    def work() -> None:
        line = _Line(url, timeout)
        try:
            while (number := next(numbers)) < count and not stopped.is_set():
                body, headers = make()
                due = time.monotonic() if rate is None else start + number / rate
                if stopped.wait(max(0.0, due - time.monotonic())):
                    return
                answers.put(line.post(number, due, body, headers))
        except BaseException as error:  # noqa: BLE001 - it is raised again where the answers are read
            answers.put(error)
        finally:
            line.close()

    for _ in range(min(connections, count)):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in range(count):
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        stopped.set()


class _Line:
    """One connection, opened at first use and again after an error or a pause."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        self._open = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port, self._timeout = parts.hostname or "", parts.port, timeout
        self._path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._connection: HTTPConnection | None = None
        self._used = 0.0

    def post(self, number: int, due: float, body: bytes, headers: Mapping[str, str]) -> Answer:
        status, event_id, code, detail = 0, None, "", ""
        try:
            response = self._exchange(body, headers)
            status, content = response.status, response.read()
            if response.will_close:
                self.close()
            event_id, code = _understand(status, content)
        except (OSError, HTTPException) as error:
            self.close()
            code, detail = "timed_out" if isinstance(error, TimeoutError) else "connection_failed", repr(error)
        self._used = time.monotonic()
        return Answer(
            number=number, status=status, id=event_id, code=code, detail=detail, seconds=time.monotonic() - due
        )

    def _exchange(self, body: bytes, headers: Mapping[str, str]) -> HTTPResponse:
        if self._connection is None or time.monotonic() - self._used > _IDLE_SECONDS:
            self.close()
            self._connection = self._open(self._host, self._port, timeout=self._timeout)
        self._connection.request("POST", self._path, body, dict(headers))
        return self._connection.getresponse()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _understand(status: int, content: bytes) -> tuple[UUID | None, str]:
    """Return the id of an acknowledgement, or the code of a refusal."""
    try:
        answer = json.loads(content)
        if status == 200:  # noqa: PLR2004 - OK
            return UUID(answer["id"]), ""
        return None, str(answer["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None, "unexpected_answer"  # another server, or a proxy in between
