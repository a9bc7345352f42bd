"""Clients that do not read their answers, or reset their connections: the ingress keeps nothing for them."""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.ingress_process import (
    Process,
    answers,
    endpoint,
    own_valkey,
    publish,
    read_answer,
    request,
    serving,
    until_closed,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MB = 2**20
REFUSED = request(b"{}", path="/webhooks/moveris/nobody")
KINDS = [request(b"{}"), REFUSED, b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n"]
SECONDS = 1.0
"""What a client has for its headers, and again for its body; ten more, and a request is stuck."""


@pytest.fixture(scope="module")
def ingress() -> Iterator[Process]:
    with own_valkey(maxmemory="512mb") as server:
        publish(server.url, 1, endpoint())
        with serving(server.url, INGRESS_BODY_TIMEOUT=str(SECONDS)) as process:
            for one in KINDS * 3:
                with process.connect() as connection:  # what it allocates once is allocated
                    connection.sendall(one * 50)
                    read(connection, answers=50)
            yield process


def memory(ingress: Process) -> int:
    return int(psutil.Process(ingress.popen.pid).memory_full_info().uss)


def deaf(ingress: Process) -> socket.socket:
    """Connect in such a way that the system holds few answers: else it takes megabytes before the ingress feels it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.settimeout(0.5)
    connection.connect(("127.0.0.1", ingress.port))
    return connection


def read(connection: socket.socket, *, answers: int) -> None:
    """Read so many answers."""
    got = b""
    while got.count(b"HTTP/1.1 ") < answers or not got.endswith(b"}"):
        got += connection.recv(65_536)


@pytest.mark.parametrize("one", KINDS, ids=["webhooks", "refusals", "health"])
def test_who_sends_without_end_and_never_reads_is_cut_off_and_costs_no_memory(ingress: Process, one: bytes) -> None:
    before, sent, is_cut = memory(ingress), 0, False
    with deaf(ingress) as connection:
        while not is_cut and sent < 200 * MB:
            try:
                connection.sendall(one * 1000)
            except ConnectionError:
                is_cut = True
            except TimeoutError:  # the ingress reads no more of it, for now
                pass
            sent += len(one * 1000)
            assert memory(ingress) < before + 16 * MB
    assert is_cut
    assert ingress.post().status_code == 200


def test_who_never_reads_the_answers_loses_the_connection(ingress: Process) -> None:
    before, descriptors = memory(ingress), psutil.Process(ingress.popen.pid).num_fds()
    with deaf(ingress) as connection:
        started, is_cut = time.monotonic(), False
        while not is_cut and time.monotonic() - started < 60:
            try:
                connection.sendall(REFUSED * 10)
            except ConnectionError:
                is_cut = True
            except TimeoutError:
                pass
            assert answers(ingress, "/livez")  # so it has read them: there are never many requests without an answer
            time.sleep(0.02)
            assert memory(ingress) < before + 8 * MB
    assert is_cut
    assert time.monotonic() - started > 2 * SECONDS + 10, "it was not for the answers that nobody read"
    wait_for(lambda: psutil.Process(ingress.popen.pid).num_fds() <= descriptors, seconds=5)
    assert ingress.post().status_code == 200


def test_a_hundred_requests_may_be_sent_at_once_and_all_are_answered(ingress: Process) -> None:
    with ingress.connect() as connection:
        connection.sendall(request(b"{}") * 99 + request(b"{}", extra="connection: close\r\n"))
        assert until_closed(connection).count(b"HTTP/1.1 200") == 100


def test_connections_that_are_reset_leave_nothing(ingress: Process) -> None:
    def reset_some(count: int) -> None:
        for _ in range(count):
            with ingress.connect() as connection:
                connection.sendall(request(b"{}"))
                assert read_answer(connection).startswith(b"HTTP/1.1 200")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close is a reset

    process = psutil.Process(ingress.popen.pid)
    reset_some(300)
    memory_before, descriptors_before = memory(ingress), process.num_fds()
    reset_some(2000)
    wait_for(lambda: process.num_fds() <= descriptors_before, seconds=5)
    assert memory(ingress) < memory_before + 3 * MB
