"""A crowd of slow clients, in a process of its own: `python -m tests.chaos.crowd`, told on stdin what to do.

Guarantees: writes how many are connected to stdout, a number a line, each half second; ends with its stdin. Refuses
nothing.

In a process of its own, because the one that measures normal traffic must not wait for 500 sockets of its own. They
come one after the other, so that the server's patience with them does not end for all at the same moment.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import uvloop

from tests.chaos.client import post, signature
from tests.chaos.stack import Endpoint
from tests.moveris import completed

if TYPE_CHECKING:
    from collections.abc import Sequence


class Crowd:
    """Slow clients; each comes again when the server has had enough of it."""

    def __init__(self, endpoints: Sequence[Endpoint], clients: int, *, spread: float) -> None:
        self._endpoints = endpoints
        self._clients = clients
        self._spread = spread
        self.connected = 0

    async def linger(self) -> None:
        """Connect all of them, over so many seconds, and stay."""
        await asyncio.gather(*(self._linger(number) for number in range(self._clients)))

    async def _linger(self, number: int) -> None:
        endpoint = self._endpoints[number % len(self._endpoints)]
        body = completed()
        request = post(endpoint.path, body, signature(endpoint.secret, body))
        begins = [b"", request[:40], request[: len(request) - 100], request[:1]][number % 4]
        await asyncio.sleep(self._spread * number / self._clients)
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
            except OSError:
                await asyncio.sleep(0.5)
                continue
            self.connected += 1
            drip = asyncio.create_task(_drip(writer)) if number % 4 == 3 else None
            try:
                writer.write(begins)
                while await reader.read(1000):
                    pass
            except OSError:
                pass
            finally:
                self.connected -= 1
                if drip is not None:
                    drip.cancel()
                writer.transport.abort()


async def _drip(writer: asyncio.StreamWriter) -> None:
    """Send a header's byte a second."""
    with suppress(OSError, RuntimeError):  # uvloop says RuntimeError of a closed transport
        while True:
            await asyncio.sleep(1)
            writer.write(b"x")


async def _tell(crowd: Crowd) -> None:
    while True:
        sys.stdout.write(f"{crowd.connected}\n")
        sys.stdout.flush()
        await asyncio.sleep(0.5)


async def _end() -> None:
    """Return when stdin ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def main() -> None:
    """Be the crowd that the first line of stdin describes, until stdin ends."""
    told = json.loads(sys.stdin.readline())
    endpoints = [
        Endpoint(port=endpoint["port"], tenant=endpoint["tenant"], secret=base64.b64decode(endpoint["secret"]))
        for endpoint in told["endpoints"]
    ]
    crowd = Crowd(endpoints, told["clients"], spread=told["spread"])
    tasks = [asyncio.create_task(work) for work in (crowd.linger(), _tell(crowd), _end())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


if __name__ == "__main__":
    uvloop.run(main())
