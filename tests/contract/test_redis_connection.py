"""What `ingress.redis_connection` relies on in redis-py beyond its documented interface."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ingress.redis_connection import connect, make_pool

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection


def test_a_connection_keeps_its_streams_in_the_two_attributes_that_are_taken(redis_url: str) -> None:
    async def take() -> list[object]:
        made: AbstractConnection = make_pool(redis_url, 1.0, prefix="").make_connection()
        await made.connect()
        assert isinstance(made._writer, asyncio.StreamWriter)
        assert isinstance(made._reader, asyncio.StreamReader)
        await made.disconnect()

        replies: list[object] = []
        connection = await connect(make_pool(redis_url, 1.0, prefix=""))
        async with asyncio.timeout(5):
            await connection.exchange(b"PING\r\n", replies, count=1)
        connection.close()
        return replies

    assert asyncio.run(take()) == [b"PONG"]
