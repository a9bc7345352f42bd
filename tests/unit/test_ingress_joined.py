"""Joining the head of an answer with its body."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ingress.joined import Joined

if TYPE_CHECKING:
    import asyncio

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire:
    """Keeps what was written, and whether it was closed."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.writes.append(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


def joined() -> tuple[Joined, Wire]:
    wire = Wire()
    return Joined(cast("asyncio.Transport", wire)), wire


def test_a_head_leaves_with_its_body() -> None:
    transport, wire = joined()
    transport.write(HEAD)
    assert wire.writes == []
    transport.write(b"{}")
    assert wire.writes == [HEAD + b"{}"]


def test_the_answers_of_one_connection_do_not_mix() -> None:
    transport, wire = joined()
    for _ in range(2):
        transport.write(HEAD)
        transport.write(b"{}")
        transport.flush()
    assert wire.writes == [HEAD + b"{}"] * 2


def test_a_body_in_parts_is_not_held_back() -> None:
    transport, wire = joined()
    for part in (HEAD, b"{", b"}"):
        transport.write(part)
    assert wire.writes == [HEAD + b"{", b"}"]


def test_continue_is_never_held_back() -> None:
    transport, wire = joined()
    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert wire.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]


def test_a_head_without_a_body_leaves_at_the_end_of_the_answer_or_with_the_close() -> None:
    transport, wire = joined()
    transport.write(HEAD)
    transport.flush()
    assert wire.writes == [HEAD]
    transport.write(HEAD)
    transport.close()
    assert wire.writes == [HEAD, HEAD]
    assert transport.is_closing()
