"""Reading a body under its caps, from messages that are given here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ingress.body import GONE, Reader
from ingress.errors import BODY_TIMEOUT, BODY_TOO_LARGE

if TYPE_CHECKING:
    from starlette.types import Message, Receive


def receiving(*messages: Message) -> Receive:
    """Return an ASGI receive that yields these messages and then waits for ever."""
    left = iter(messages)

    async def receive() -> Message:
        message = next(left, None)
        if message is None:
            await asyncio.Event().wait()
            raise AssertionError
        await asyncio.sleep(0)
        return message

    return receive


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def read(receive: Receive, *headers: tuple[bytes, bytes], max_bytes: int = 10, seconds: float = 60) -> object:
    return asyncio.run(Reader(max_bytes=max_bytes, seconds=seconds).read(receive, headers))


def test_parts_are_joined() -> None:
    assert read(receiving(part(b"abc", more=True), part(b"", more=True), part(b"def"))) == b"abcdef"


def test_a_body_may_be_empty() -> None:
    assert read(receiving(part(b""))) == b""


def test_a_body_of_the_bound_is_accepted_and_one_byte_more_is_not() -> None:
    assert read(receiving(part(b"x" * 10))) == b"x" * 10
    assert read(receiving(part(b"x" * 11))) is BODY_TOO_LARGE


def test_parts_are_counted_whatever_content_length_says() -> None:
    messages = (part(b"x" * 6, more=True), part(b"x" * 6, more=True))
    assert read(receiving(*messages), (b"content-length", b"3")) is BODY_TOO_LARGE


def test_an_honest_content_length_is_refused_before_anything_is_received() -> None:
    assert read(receiving(), (b"content-length", b"11")) is BODY_TOO_LARGE


def test_a_content_length_of_thousands_of_digits_is_too_large() -> None:
    assert read(receiving(), (b"content-length", b"9" * 5000)) is BODY_TOO_LARGE


def test_a_body_that_stops_arriving_is_given_up() -> None:
    assert read(receiving(part(b"x", more=True)), seconds=0.01) is BODY_TIMEOUT


def test_a_client_that_leaves_is_gone() -> None:
    assert read(receiving(part(b"x", more=True), {"type": "http.disconnect"})) is GONE


def test_a_late_reader_does_not_harm_the_others() -> None:
    async def both() -> tuple[object, object, int]:
        reader = Reader(max_bytes=10, seconds=0.01)
        late = asyncio.create_task(reader.read(receiving(), ()))
        results = (await late, await reader.read(receiving(part(b"x")), ()))
        return *results, late.cancelling()

    assert asyncio.run(both()) == (BODY_TIMEOUT, b"x", 0)


def test_a_cancellation_from_outside_is_passed_on() -> None:
    async def cancelled() -> bool:
        task = asyncio.create_task(Reader(max_bytes=10, seconds=60).read(receiving(), ()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())


def test_discarding_tells_whether_the_end_was_reached() -> None:
    async def discard(*messages: Message) -> bool:
        return await Reader(max_bytes=10, seconds=0.01).discard(receiving(*messages))

    assert asyncio.run(discard(part(b"abc", more=True), part(b"d")))
    assert not asyncio.run(discard(part(b"abc", more=True)))
    assert not asyncio.run(discard(part(b"x" * 11)))
