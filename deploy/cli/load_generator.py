"""Posts many requests at a steady rate over a bounded number of connections.

Request n is due at start + n / rate, whatever the answers take, and its time counts from when it was due, so that
waiting for a free connection is not hidden. Nothing is sent twice.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from itertools import count as counting
from queue import SimpleQueue
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

_IDLE_SECONDS: Final = 2.0
"""A connection idle for longer is opened anew: servers close idle ones, often in the moment they are used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for one request: `id` if it was acknowledged, else `code`, and `status` 0 if nothing came back.

    `number` counts from 0 in the order of sending; `seconds` run from when it was due until the whole answer was there.
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

    `make` returns the body and the headers of the next request, and is called from several threads. Without a `rate` (a
    second), the connections post as fast as they can. `timeout` bounds each answer, in seconds.
    """
    answers: SimpleQueue[Answer | BaseException] = SimpleQueue()
    numbers, stopped, start = counting(), threading.Event(), time.monotonic()
    parts = urlsplit(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    path = parts._replace(scheme="", netloc="").geturl()

    def work() -> None:
        connection, used = connect(parts.hostname or "", parts.port, timeout=timeout), 0.0
        try:
            while (number := next(numbers)) < count and not stopped.is_set():
                body, headers = make()
                due = time.monotonic() if rate is None else start + number / rate
                if stopped.wait(max(0.0, due - time.monotonic())):
                    return
                if time.monotonic() - used > _IDLE_SECONDS:
                    connection.close()  # the next request opens it
                status, event_id, code, detail = _post(connection, path, body, headers)
                used = time.monotonic()
                answers.put(
                    Answer(number=number, status=status, id=event_id, code=code, detail=detail, seconds=used - due)
                )
        except BaseException as error:  # noqa: BLE001 - it is raised again where the answers are read
            answers.put(error)
        finally:
            connection.close()

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


def _post(
    connection: HTTPConnection, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[int, UUID | None, str, str]:
    """Return status, id, code and detail of an `Answer`."""
    try:
        connection.request("POST", path, body, dict(headers))
        response = connection.getresponse()
        content = response.read()
    except (OSError, HTTPException) as error:
        connection.close()
        return 0, None, "timed_out" if isinstance(error, TimeoutError) else "connection_failed", repr(error)
    try:
        answer = json.loads(content)
        if response.status == 200:  # noqa: PLR2004 - OK
            return 200, UUID(answer["id"]), "", ""
        return response.status, None, str(answer["error"]["code"]), ""
    except (ValueError, KeyError, TypeError):
        return response.status, None, "unexpected_answer", ""  # another server, or a proxy in between
