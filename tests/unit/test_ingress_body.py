"""Reading a body under its caps, from messages that are given here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ingress.body import BodyReader
from ingress.errors import BODY_TIMEOUT, BODY_TOO_LARGE, TOO_BUSY

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

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
    return asyncio.run(BodyReader(max_bytes=max_bytes, seconds=seconds, budget=2**20).read(receive, headers))


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


def test_the_longest_allowed_content_length_is_accepted() -> None:
    assert read(receiving(part(b"x" * 10)), (b"content-length", b"10")) == b"x" * 10


def test_an_honest_content_length_is_refused_before_anything_is_received() -> None:
    assert read(receiving(), (b"content-length", b"11")) is BODY_TOO_LARGE


def test_a_content_length_of_thousands_of_digits_is_too_large() -> None:
    assert read(receiving(), (b"content-length", b"9" * 5000)) is BODY_TOO_LARGE


def test_a_body_that_stops_arriving_is_given_up() -> None:
    assert read(receiving(part(b"x", more=True)), seconds=0.01) is BODY_TIMEOUT


def test_a_client_that_leaves_is_gone() -> None:
    assert read(receiving(part(b"x", more=True), {"type": "http.disconnect"})) is None


def test_a_late_reader_does_not_harm_the_others() -> None:
    async def both() -> tuple[object, object, int]:
        reader = BodyReader(max_bytes=10, seconds=0.01, budget=2**20)
        late = asyncio.create_task(reader.read(receiving(), ()))
        results = (await late, await reader.read(receiving(part(b"x")), ()))
        return *results, late.cancelling()

    assert asyncio.run(both()) == (BODY_TIMEOUT, b"x", 0)


def test_a_cancellation_from_outside_is_passed_on() -> None:
    async def cancelled() -> bool:
        task = asyncio.create_task(BodyReader(max_bytes=10, seconds=60, budget=2**20).read(receiving(), ()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())


def test_discarding_tells_whether_the_end_was_reached() -> None:
    async def discard(*messages: Message) -> bool:
        return await BodyReader(max_bytes=10, seconds=0.01, budget=2**20).discard(receiving(*messages))

    assert asyncio.run(discard(part(b"abc", more=True), part(b"d")))
    assert not asyncio.run(discard(part(b"abc", more=True)))
    assert not asyncio.run(discard(part(b"x" * 11)))


KB = 1024


class Upload:
    """A body that arrives when it is told to."""

    def __init__(self, reader: BodyReader) -> None:
        self._parts: asyncio.Queue[Message] = asyncio.Queue()
        self.task = asyncio.create_task(reader.read(self._parts.get, ()))

    def put(self, size: int, *, more: bool = True) -> None:
        self._parts.put_nowait(part(b"x" * size, more=more))

    async def send(self, size: int, *, more: bool = True) -> None:
        self.put(size, more=more)
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def refusal(self) -> object:
        return self.task.result() if self.task.done() else None


def with_budget(case: Callable[[BodyReader], Coroutine[None, None, None]], budget: int = 1000 * KB) -> None:
    async def run() -> None:
        await case(BodyReader(max_bytes=1000 * KB, seconds=60, budget=budget))

    asyncio.run(run())


def test_beyond_the_budget_the_body_that_has_held_most_for_longest_goes() -> None:
    async def case(reader: BodyReader) -> None:
        stalled = Upload(reader)
        await stalled.send(500 * KB)
        await asyncio.sleep(0.01)
        young = Upload(reader)
        await young.send(200 * KB)
        assert stalled.refusal is None
        await young.send(100 * KB)
        assert stalled.refusal is TOO_BUSY
        await young.send(300 * KB, more=False)
        assert len(await young.task) == 600 * KB

    with_budget(case)


def test_a_quarter_of_the_budget_is_left_for_small_bodies() -> None:
    async def case(reader: BodyReader) -> None:
        large = [Upload(reader) for _ in range(7)]
        for each in large:
            await each.send(100 * KB)
        assert not any(each.refusal for each in large)  # 700 of 750 KB
        small = [Upload(reader) for _ in range(4)]
        for each in small:
            await each.send(64 * KB)
        assert not any(each.refusal for each in [*small, *large])
        await large[0].send(60 * KB)
        assert sum(each.refusal is TOO_BUSY for each in large) == 1
        assert not any(each.refusal for each in small)

    with_budget(case)


def test_a_body_that_goes_for_itself_is_refused_even_if_its_end_is_there_already() -> None:
    async def case(reader: BodyReader) -> None:
        one = Upload(reader)
        one.put(800 * KB)
        one.put(1, more=False)
        assert await one.task is TOO_BUSY
        assert one.task.cancelling() == 0

    with_budget(case)


def test_a_body_that_is_read_gives_its_part_of_the_budget_back() -> None:
    async def case(reader: BodyReader) -> None:
        for _ in range(10):
            one = Upload(reader)
            await one.send(300 * KB)
            await one.send(0, more=False)
            assert len(await one.task) == 300 * KB  # type: ignore[arg-type]
        gone = Upload(reader)
        await gone.send(300 * KB)
        gone.task.cancel()
        await asyncio.wait([gone.task])
        late = Upload(reader)
        await late.send(700 * KB)
        assert late.refusal is None

    with_budget(case)


def test_a_body_that_has_ended_takes_no_place_from_others() -> None:
    async def case(reader: BodyReader) -> None:
        slow = Upload(reader)
        await asyncio.sleep(0.01)
        ended = Upload(reader)
        await ended.send(350 * KB)
        await ended.send(0, more=False)
        await ended.task
        await slow.send(700 * KB)
        assert slow.refusal is None

    with_budget(case)


def test_the_longest_allowed_body_is_taken_in_parts_and_one_byte_more_is_not() -> None:
    for extra, expected in ((0, True), (1, False)):
        result = read(receiving(part(b"x" * 6, more=True), part(b"x" * (4 + extra))))
        assert (result == b"x" * 10) is expected
