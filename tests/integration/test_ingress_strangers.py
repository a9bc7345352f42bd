"""What a stranger may cost: fields, trailers, upgrades and bodies that never end, on the wire and in memory."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from ingress.schemes import find
from tests.ingress_process import (
    PATH,
    SECRET,
    Process,
    Valkey,
    inbox,
    read_answer,
    request,
    serving,
    until_closed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

moveris = find("moveris")

MB = 2**20
CHUNKED = f"POST {PATH} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n"


@pytest.fixture(scope="module")
def ingress(valkey: Valkey) -> Iterator[Process]:
    with serving(valkey.url, INGRESS_BODIES_BYTES=str(16 * MB), INGRESS_CONNECTIONS="2000") as it:
        it.post()
        yield it


def memory(ingress: Process) -> int:
    return int(psutil.Process(ingress.popen.pid).memory_full_info().uss)


def signature(body: bytes) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in moveris.sign(SECRET, body).items())


def stored(valkey: Valkey) -> list[bytes]:
    return [entry.body for entry in inbox(valkey.url)]


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (f"{CHUNKED}\r\n0\r\n", "a:\r\n"),
        (f"{CHUNKED}\r\n0\r\na: ", "x"),
        (f"{CHUNKED}\r\n1;", "x"),
        (f"{CHUNKED}\r\nfffff\r\n{'x' * 0xFFFFF}\r\n0\r\na: ", "x"),
        (f"{CHUNKED}\r\nfffff\r\n{'x' * 0xFFFFF}\r\n1;", "x"),
        (CHUNKED, "a:\r\n"),
        (f"{CHUNKED}a: ", "x"),
        (f"{CHUNKED}", "x"),
        ("POST /", "x"),
        ("\r\n", "\r\n"),
    ],
    ids=[
        "trailers",
        "trailer value",
        "chunk extension",
        "trailer value after a body",
        "chunk extension after a body",
        "fields",
        "field value",
        "field name",
        "path",
        "empty lines",
    ],
)
def test_what_never_ends_around_a_body_is_cut_off(ingress: Process, start: str, more: str) -> None:
    before = memory(ingress)
    with ingress.connect() as connection:
        connection.sendall(start.encode())
        sent = highest = 0
        with contextlib.suppress(ConnectionError):
            while sent < 64 * MB:
                connection.sendall(more.encode() * (MB // len(more)))
                sent += MB
                highest = max(highest, memory(ingress))
    assert sent < 32 * MB  # what the sockets hold
    assert highest < before + 4 * MB


def test_many_tiny_fields_are_431(ingress: Process) -> None:
    many = "".join(f"x-{number}: 1\r\n" for number in range(250))
    assert ingress.talk(request(b"{}", extra=f"{many}connection: close\r\n")).startswith(b"HTTP/1.1 200")
    assert ingress.talk(request(b"{}", extra=many + many)).startswith(b"HTTP/1.1 431")


def test_a_signature_that_comes_as_a_trailer_is_none(ingress: Process, valkey: Valkey) -> None:
    body = b"signed at the end"
    answer = ingress.talk(
        f"{CHUNKED}connection: close\r\n\r\n{len(body):x}\r\n".encode()
        + body
        + f"\r\n0\r\n{signature(body)}\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"missing_signature" in answer
    assert body not in stored(valkey)


def test_a_chunked_body_in_chunks_of_one_byte_with_a_trailer_is_taken(ingress: Process, valkey: Valkey) -> None:
    body = b"byte by byte " * 1000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    head = f"{CHUNKED}{signature(body)}connection: close\r\n\r\n".encode()
    assert ingress.talk(head + chunks + b"0\r\nx-checksum: 1\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert body in stored(valkey)


UPGRADES = ["upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"] + [
    f"upgrade: {protocol}\r\nconnection: upgrade\r\n" for protocol in ("websocket", "TLS/1.2", "anything")
]


@pytest.mark.parametrize("upgrade", UPGRADES, ids=["h2c", "websocket", "tls", "anything"])
@pytest.mark.parametrize("pieces", ["one", "head and body", "bytes"])
def test_an_upgrade_is_ignored_and_its_body_is_the_event(
    ingress: Process, valkey: Valkey, upgrade: str, pieces: str
) -> None:
    body = f"upgrade {hash(upgrade)} {pieces}".encode()
    whole = request(body, extra=upgrade)
    head = len(whole) - len(body)
    cuts = {"one": [len(whole)], "head and body": [head, len(whole)], "bytes": range(1, len(whole) + 1)}[pieces]
    with ingress.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = 0
        for end in cuts:
            connection.sendall(whole[begin:end])
            begin = end
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(request(body + b", the next one", extra="connection: close\r\n"))
        assert until_closed(connection).startswith(b"HTTP/1.1 200")
    assert [entry for entry in stored(valkey) if entry.startswith(body)] == [body, body + b", the next one"]


def test_a_request_inside_the_body_of_an_upgrade_is_no_request(ingress: Process, valkey: Valkey) -> None:
    inner = request(b"smuggled")
    for extra in UPGRADES:
        unsigned = f"POST {PATH} HTTP/1.1\r\nhost: test\r\n{extra}content-length: {len(inner)}\r\n\r\n".encode()
        with ingress.connect() as connection:
            connection.sendall(unsigned)
            connection.sendall(inner)
            connection.shutdown(socket.SHUT_WR)
            answer = until_closed(connection)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 401")
    assert b"smuggled" not in stored(valkey)


def test_an_upgrade_without_a_body_is_answered_as_its_request(ingress: Process) -> None:
    for extra in UPGRADES:
        get = f"GET /livez HTTP/1.1\r\nhost: test\r\n{extra}\r\nGET /readyz HTTP/1.1\r\nconnection: close\r\n\r\n"
        assert ingress.talk(get.encode()).count(b"HTTP/1.1 200") == 2


def test_connect_is_405(ingress: Process) -> None:
    assert ingress.talk(b"CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\nsecret").startswith(b"HTTP/1.1 405")


@pytest.mark.parametrize("blank", [" ", "\t", " \t "])
def test_blanks_after_a_value_change_nothing(ingress: Process, blank: str) -> None:
    body = b"blank behind"
    with ingress.connect() as connection:
        connection.sendall(request(body).replace(b"\r\ncontent-length", blank.encode() + b"\r\ncontent-length"))
        assert read_answer(connection).startswith(b"HTTP/1.1 200")


def test_unfinished_bodies_share_one_budget_and_signed_events_keep_theirs(ingress: Process) -> None:
    before = memory(ingress)
    head = f"POST {PATH} HTTP/1.1\r\nhost: test\r\ncontent-length: {MB}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(ingress.connect()) for _ in range(150)]
        for stranger in strangers:
            with contextlib.suppress(ConnectionError):
                stranger.sendall(head + b"x" * (MB - 1))
        took = []
        for size in (2, 50_000, MB - 100):
            started = time.monotonic()
            assert ingress.post(b"x" * size).status_code == 200
            took.append(time.monotonic() - started)
        assert memory(ingress) < before + 64 * MB
        assert max(took) < 1
        strangers[0].settimeout(5)
        answer = strangers[0].recv(65_536)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"too_busy" in answer


def test_what_arrives_while_the_loop_stands_still_is_bounded_too(valkey: Valkey) -> None:
    settings = {"INGRESS_BODIES_BYTES": str(16 * MB), "INGRESS_CONNECTIONS": "2000"}
    with serving(valkey.url, **settings) as ingress, contextlib.ExitStack() as stack:
        assert ingress.post(b"before").status_code == 200
        before, process = memory(ingress), psutil.Process(ingress.popen.pid)
        strangers = [stack.enter_context(ingress.connect()) for _ in range(600)]
        assert ingress.post(b"behind their connections").status_code == 200
        process.suspend()
        try:
            for stranger in strangers:
                stranger.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    stranger.send(f"POST {PATH} HTTP/1.1\r\nhost: test\r\ncontent-length: {MB}\r\n\r\n".encode())
                    stranger.send(b"x" * (MB - 1))
        finally:
            process.resume()
        assert ingress.post(b"after").status_code == 200
        assert memory(ingress) < before + 250 * MB


def test_all_addresses_are_those_of_ipv4_too(valkey: Valkey) -> None:
    with serving(valkey.url, INGRESS_HOST="::") as ingress:
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, ingress.port), timeout=5) as connection:
                connection.sendall(request(b"{}"))
                assert read_answer(connection).startswith(b"HTTP/1.1 200")
