"""What one process runs before its first delivery, and on the event loop that its handlers share."""

from __future__ import annotations

import asyncio

import pytest

from workers.dispatch.handler_loop import HandlerLoop


def test_start_functions_run_once_in_order_on_the_loop_of_the_handlers() -> None:
    ran: list[object] = []

    def first() -> None:
        ran.append("first")

    async def second() -> None:
        ran.append(asyncio.get_running_loop())

    loop = HandlerLoop([first, second])
    loop.start()
    loop.start()
    assert ran == ["first", loop.prepare()]
    loop.prepare().close()


def test_a_start_function_that_raises_runs_again_and_those_before_it_do_not() -> None:
    ran: list[str] = []

    async def first() -> None:
        ran.append("first")

    def second() -> None:
        ran.append("second")
        if ran.count("second") == 1:
            raise ConnectionRefusedError("the other side starts, too")

    loop = HandlerLoop([first, second])
    with pytest.raises(ConnectionRefusedError):
        loop.start()
    loop.start()
    assert ran == ["first", "second", "second"]
    loop.prepare().close()


def test_what_a_start_function_leaves_running_goes_on_and_what_a_handler_leaves_running_does_not() -> None:
    lasting: list[asyncio.Task[bool]] = []
    left: list[asyncio.Task[bool]] = []

    async def open_pool() -> None:
        lasting.append(asyncio.create_task(asyncio.Event().wait()))

    async def handle() -> None:
        left.append(asyncio.create_task(asyncio.Event().wait()))

    loop = HandlerLoop([open_pool])
    loop.start()
    loop.run(handle())
    assert left[0].cancelled()
    assert not lasting[0].done()
    lasting[0].cancel()
    loop.run(asyncio.sleep(0))
    loop.prepare().close()


def test_an_async_start_function_runs_again_when_the_loop_that_it_ran_on_is_gone() -> None:
    ran: list[object] = []

    def open_client() -> None:
        ran.append("plain")

    async def open_pool() -> None:
        ran.append(asyncio.get_running_loop())

    loop = HandlerLoop([open_client, open_pool])
    loop.start()
    first = loop.prepare()
    first.close()  # a handler did
    loop.start()
    assert ran == ["plain", first, loop.prepare()]
    assert loop.prepare() is not first
    loop.prepare().close()
