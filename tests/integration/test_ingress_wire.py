"""What Redis says and how it comes: replies in pieces, cut off, refused one by one, too many, or never."""

from __future__ import annotations

import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from shared.wire import INGEST_QUEUE
from tests.ingress_process import (
    SECRET,
    Process,
    Valkey,
    answers,
    endpoint,
    inbox,
    publish,
    read_answer,
    request,
    serving,
    until_closed,
    wait_for,
)
from tests.names import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


CUT = b"cut"
APPEND = re.compile(rb"\*\d+\r\n\$4\r\nXADD\r\n")
"""Not the question whether this user may append, which names the command too."""
Pieces = list[bytes]


class Between:
    """Stands between the ingress and Redis; `change` decides what becomes of each chunk of an answer to an append.

    It returns the pieces to pass on, one by one; at `CUT` the connection is cut.
    """

    def __init__(self, redis_port: int) -> None:
        self._redis_port = redis_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.change: Callable[[bytes], Pieces] = lambda chunk: [chunk]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            redis = socket.create_connection(("127.0.0.1", self._redis_port))
            for one in (client, redis):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            state = {"appends": False}
            threading.Thread(target=self._pass, args=(client, redis, state, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(redis, client, state, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, state: dict[str, Any], is_question: bool) -> None:  # noqa: FBT001
        with source, hanging_up(target), suppress(OSError):
            while chunk := source.recv(1 << 20):
                if is_question:
                    state["appends"] |= APPEND.search(chunk) is not None
                pieces = self.change(chunk) if state["appends"] and not is_question else [chunk]
                for piece in pieces:
                    if piece is CUT:
                        return
                    target.sendall(piece)
                    if len(pieces) > 1:
                        time.sleep(0.002)  # so that each piece arrives by itself


@contextmanager
def hanging_up(target: socket.socket) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def place(valkey: Valkey) -> Iterator[tuple[Process, Between]]:
    url = urlsplit(valkey.url)
    assert url.port is not None
    between = Between(url.port)
    with serving(valkey.url.replace(str(url.port), str(between.port))) as process:
        yield process, between
    between.close()


@contextmanager
def changing(between: Between, change: Callable[[bytes], Pieces]) -> Iterator[None]:
    before, between.change = between.change, change
    try:
        yield
    finally:
        between.change = before


def posted(ingress: Process, *bodies: bytes) -> list[int]:
    """Post bodies at the same time; return the status of each, and see that none took longer than a second."""
    started = time.monotonic()
    with ThreadPoolExecutor(len(bodies)) as pool:
        statuses = [answer.status_code for answer in pool.map(ingress.post, bodies)]
    assert time.monotonic() - started < 1.2
    return statuses


def stored(valkey: Valkey) -> list[bytes]:
    return [entry.body for entry in inbox(valkey.url)]


def test_replies_that_come_byte_by_byte_are_replies(place: tuple[Process, Between], valkey: Valkey) -> None:
    ingress, between = place
    with changing(between, lambda chunk: [chunk[at : at + 1] for at in range(len(chunk))]):
        bodies = [b"piece %d" % number for number in range(4)]
        assert [posted(ingress, body) for body in bodies] == [[200]] * 4
    assert set(bodies) <= set(stored(valkey))


def test_a_connection_cut_within_a_reply_is_503_and_the_next_event_flows(
    place: tuple[Process, Between], valkey: Valkey
) -> None:
    ingress, between = place
    assert posted(ingress, b"before the cut") == [200]
    with changing(between, lambda chunk: [chunk[:4], CUT]):
        assert posted(ingress, b"cut") == [503]
    wait_for(lambda: posted(ingress, b"after the cut") == [200], seconds=5)
    assert b"after the cut" in stored(valkey)


@pytest.mark.parametrize(
    "instead",
    [
        pytest.param(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n:0\r\n", id="full"),
        pytest.param(b"-READONLY You can't write against a read only replica.\r\n:0\r\n", id="a replica"),
        pytest.param(b"-LOADING Valkey is loading the dataset in memory\r\n-LOADING\r\n", id="loading"),
        pytest.param(b"no protocol at all\r\n", id="no protocol"),
        pytest.param(b"*2\r\n$6\r\nMOVING\r\n:1\r\n:0\r\n", id="something else"),
        pytest.param(b":1\r\n:0\r\n", id="a number"),
    ],
)
def test_what_is_no_confirmation_is_503_and_the_next_event_flows(
    place: tuple[Process, Between], instead: bytes
) -> None:
    ingress, between = place
    time.sleep(0.02)  # beyond the quiet behind the last bell: the flight has a bell, and two replies
    with changing(between, lambda _: [instead]):
        assert posted(ingress, b"not confirmed") == [503]
    wait_for(lambda: posted(ingress, b"confirmed again") == [200], seconds=5)


def test_in_one_round_trip_each_event_gets_its_own_reply(place: tuple[Process, Between], valkey: Valkey) -> None:
    ingress, between = place
    assert posted(ingress, b"warm") == [200]
    batches: list[int] = []
    refused: list[int] = []

    def refuse_the_first(chunk: bytes) -> Pieces:
        """Hold the first batch up, while the others collect for the next; refuse the first event of that."""
        batches.append(chunk.count(b"$"))
        if len(batches) == 1:
            time.sleep(0.4)
        if len(batches) == 1 or batches[-1] <= 2 or refused:
            return [chunk]
        refused.append(sum(batches[:-1]))
        first, second = chunk.index(b"$"), chunk.index(b"$", chunk.index(b"$") + 1)
        return [chunk[:first] + b"-OOM for this one only\r\n" + chunk[second:]]

    bodies = [b"own reply %d" % number for number in range(8)]
    with changing(between, refuse_the_first), ThreadPoolExecutor(len(bodies)) as pool:
        statuses = dict(zip(bodies, (it.status_code for it in pool.map(ingress.post, bodies)), strict=True))
    assert refused, "several events were in one round trip"
    in_order = [statuses[body] for body in stored(valkey) if body in statuses]
    assert [place for place, status in enumerate(in_order) if status != 200] == refused


@pytest.mark.parametrize("error", ["READONLY replica", "NOAUTH Authentication required.", "MASTERDOWN", "CLUSTERDOWN"])
def test_what_redis_has_become_ends_the_connection_and_what_was_sent_does_not(
    place: tuple[Process, Between], error: str
) -> None:
    ingress, between = place
    for reply, reconnects in ((b"-OOM full\r\n", 0), (f"-{error}\r\n".encode(), 1)):
        wait_for(lambda: posted(ingress, b"in order") == [200], seconds=5)
        wait_for(lambda: answers(ingress, "/readyz"), seconds=5)
        before = between.connections
        with changing(between, lambda chunk, reply=reply: [reply * (chunk.count(b"$") + chunk.count(b":"))]):  # type: ignore[misc]
            assert posted(ingress, b"refused") == [503]
        assert posted(ingress, b"taken") == [200]
        assert between.connections - before == reconnects


def test_a_reply_that_never_comes_is_503_within_a_second(place: tuple[Process, Between]) -> None:
    ingress, between = place
    with changing(between, lambda _: []):
        assert posted(ingress, *[b"never %d" % number for number in range(4)]) == [503] * 4
    wait_for(lambda: posted(ingress, b"at last") == [200], seconds=5)


def test_a_reply_to_nothing_ends_the_connection_and_takes_nothing_back(place: tuple[Process, Between]) -> None:
    ingress, between = place
    wait_for(lambda: posted(ingress, b"in step") == [200], seconds=5)
    before = between.connections
    with changing(between, lambda chunk: [chunk + b":7\r\n"]):
        assert posted(ingress, b"one too many") == [200]
    wait_for(lambda: posted(ingress, b"in step again") == [200], seconds=5)
    assert between.connections > before


def test_every_event_is_followed_by_a_bell(place: tuple[Process, Between], valkey: Valkey) -> None:
    ingress, _ = place
    with valkey.client() as client, ingress.connect() as connection:
        for _ in range(30):
            client.delete(INGEST_QUEUE, NAMES.bell)
            connection.sendall(request(b"1"))
            assert read_answer(connection).startswith(b"HTTP/1.1 200")
            client.delete(INGEST_QUEUE, NAMES.bell)  # a drain that looks between the two
            connection.sendall(request(b"2"))
            assert read_answer(connection).startswith(b"HTTP/1.1 200")
            wait_for(lambda: client.llen(INGEST_QUEUE) >= 1, seconds=5)


def test_a_stop_rings_for_the_last_event(valkey: Valkey) -> None:
    with serving(valkey.url) as ingress, valkey.client() as client, ingress.connect() as connection:
        connection.sendall(request(b"the last but one"))
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
        client.delete(INGEST_QUEUE, NAMES.bell)
        connection.sendall(request(b"the last"))
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
        assert ingress.stop() == 0
        assert client.llen(INGEST_QUEUE) == 1


@pytest.mark.parametrize("url", ["redis://carol:secret@127.0.0.1:{port}/0", "redis://:test@127.0.0.1:{port}/7"])
def test_users_and_databases_of_the_url_are_kept(valkey: Valkey, url: str) -> None:
    port = urlsplit(valkey.url).port
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "carol", "on", ">secret", "~*", "&*", "+@all")
    full = url.format(port=port)
    if full.endswith("/7"):
        publish(full, 1, endpoint())
    with serving(full) as ingress:
        assert posted(ingress, url.encode()) == [200]
    assert url.encode() in [entry.body for entry in inbox(full)]


@pytest.mark.parametrize("cut", [1, 30, 120, -3])
def test_a_request_in_two_pieces_is_answered_like_one_in_one(
    place: tuple[Process, Between], valkey: Valkey, cut: int
) -> None:
    ingress, _ = place
    body = b"in two pieces at %d" % cut
    whole = request(body, extra="connection: close\r\n")
    with ingress.connect() as connection:
        connection.sendall(whole[:cut])
        assert answers(ingress, "/livez")  # the first piece is read by then
        connection.sendall(whole[cut:])
        assert until_closed(connection).startswith(b"HTTP/1.1 200")
    assert body in stored(valkey)


@pytest.mark.parametrize("secret", [SECRET, b"another one"], ids=["accepted", "refused"])
def test_a_request_that_expects_100_continue_is_answered_like_any_other(
    place: tuple[Process, Between], secret: bytes
) -> None:
    ingress, _ = place
    heads = []
    for extra in ("", "expect: 100-continue\r\n"):
        with ingress.connect() as connection:
            for _ in range(2):  # the connection goes on behind the answer
                connection.sendall(request(b"alike", extra=extra, secret=secret))
                answer = b""
                while not answer.endswith(b"}"):
                    answer += connection.recv(65_536)
        head = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")[0]
        heads.append([line.partition(b":")[0] for line in head.split(b"\r\n")])
    assert heads[0] == heads[1]


def test_pipelined_requests_are_answered_in_order(place: tuple[Process, Between], valkey: Valkey) -> None:
    ingress, _ = place
    forged = request(b"forged", secret=b"another one")
    several = b"".join(request(b"%d in a row" % number) + forged for number in range(5))
    with ingress.connect() as connection:
        connection.sendall(forged + several + request(b"5 in a row", extra="connection: close\r\n"))
        statuses = re.findall(rb"HTTP/1.1 (\d+)", until_closed(connection))
    assert statuses == [b"401", *[b"200", b"401"] * 5, b"200"]
    assert [body for body in stored(valkey) if body.endswith(b" in a row")] == [
        b"%d in a row" % number for number in range(6)
    ]


@pytest.mark.parametrize(
    "behind",
    [
        b"}\n",
        b"GET /x HTTP/9.9\r\n\r\n",
        request(b"2")[:-1] + b"\r\nnot HTTP",
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /x HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n",
    ],
)
def test_an_event_that_was_stored_is_answered_whatever_comes_behind_it(
    place: tuple[Process, Between], valkey: Valkey, behind: bytes
) -> None:
    ingress, _ = place
    body = b"in front of " + behind
    with ingress.connect() as connection:
        connection.sendall(request(body) + behind)
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert body in stored(valkey)


def test_a_request_beyond_the_pipelined_ones_takes_the_answer_of_none_of_them(place: tuple[Process, Between]) -> None:
    ingress, _ = place
    with ingress.connect() as connection:
        connection.sendall(request(b"{}") * 101)
        assert until_closed(connection).count(b"HTTP/1.1 200") == 100


def test_a_client_that_leaves_while_redis_is_slow_harms_nobody(place: tuple[Process, Between], valkey: Valkey) -> None:
    ingress, between = place

    def slowly(chunk: bytes) -> list[bytes]:
        time.sleep(0.1)
        return [chunk]

    with changing(between, slowly):
        with ingress.connect() as connection:
            connection.sendall(request(b"left before the answer"))
            wait_for(lambda: b"left before the answer" in stored(valkey), seconds=5)
        assert posted(ingress, b"stayed") == [200]
