"""Clients that are slow, greedy or many."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from tests.ingress_process import Process, endpoint, own_valkey, publish, request, serving, until_closed, wait_for

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

SECONDS = 1.0
"""What a client has for its headers, and again for its body."""
KEEP_ALIVE = 4.0
"""How long a connection may be idle."""


@pytest.fixture(scope="module")
def ingress() -> Iterator[Process]:
    with own_valkey() as server:
        publish(server.url, 1, endpoint())
        limits = {"INGRESS_BODY_TIMEOUT": str(SECONDS), "INGRESS_KEEP_ALIVE": str(KEEP_ALIVE)}
        with serving(server.url, INGRESS_CONNECTIONS="20", **limits) as process:
            yield process


def exchange(connection: socket.socket) -> bytes:
    """Send a request and return its whole answer, on a connection that stays open."""
    connection.sendall(request(b"{}"))
    answer = b""
    while not answer.endswith(b"}"):
        chunk = connection.recv(65_536)
        assert chunk, f"closed behind {answer!r}"
        answer += chunk
    return answer


def drip(connection: socket.socket, piece: bytes) -> float:
    """Send a piece again and again until the other side has had enough; return the seconds that took."""
    started = time.monotonic()
    connection.settimeout(0.05)
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - started < 20:
            connection.sendall(piece)
            with contextlib.suppress(TimeoutError):
                if not connection.recv(65_536):
                    break
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("opening", "piece"),
    [
        pytest.param(b"", b"", id="nothing at all"),
        pytest.param(b"POST / HTTP/1.1\r\n", b"a", id="headers letter by letter"),
        pytest.param(b"", b"\r\n", id="empty lines"),
        pytest.param(request(b"{}"), b"\r\n", id="empty lines after a request"),
        pytest.param(request(b"{}"), b"P", id="half a request after a request"),
    ],
)
def test_a_client_that_drips_loses_its_connection(ingress: Process, opening: bytes, piece: bytes) -> None:
    with ingress.connect() as connection:
        connection.sendall(opening)
        assert drip(connection, piece) < SECONDS + 3


def test_an_idle_connection_is_kept_for_the_next_request(ingress: Process) -> None:
    with ingress.connect() as connection:
        for _ in range(2):
            assert exchange(connection).startswith(b"HTTP/1.1 200")
            time.sleep(SECONDS + 1.2)  # longer than the time for headers: nothing may happen, so nothing can be awaited
        assert exchange(connection).startswith(b"HTTP/1.1 200")


def test_an_idle_connection_is_closed_when_its_time_is_over(ingress: Process) -> None:
    with ingress.connect() as connection:
        asked = time.monotonic()
        assert exchange(connection).startswith(b"HTTP/1.1 200")
        assert until_closed(connection) == b""
        assert KEEP_ALIVE <= time.monotonic() - asked < KEEP_ALIVE + 3


def test_endless_headers_are_431(ingress: Process) -> None:
    with ingress.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\n")
        answer = b""
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                connection.sendall(b"x-more: " + b"y" * 10_000 + b"\r\n")
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    answer += connection.recv(65_536)
                connection.setblocking(True)
        assert answer.startswith(b"HTTP/1.1 431") or not answer
    assert ingress.post().status_code == 200


def test_one_connection_too_many_is_503_and_others_are_served(ingress: Process) -> None:
    with contextlib.ExitStack() as stack:
        held = []
        for _ in range(20):
            held.append(stack.enter_context(ingress.connect()))
            assert exchange(held[-1]).startswith(b"HTTP/1.1 200")
        answer = until_closed(stack.enter_context(ingress.connect()))
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 5\r\n" in answer
        assert b"too_many_connections" in answer
        assert exchange(held[0]).startswith(b"HTTP/1.1 200")
    wait_for(lambda: ingress.talk(request(b"{}", extra="connection: close\r\n")).startswith(b"HTTP/1.1 200"), seconds=5)
