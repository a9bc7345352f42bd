"""What happens between the processes and their servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.chaos.faults import fault

if TYPE_CHECKING:
    import random

    from tests.chaos.faults import Inject
    from tests.chaos.proxy import Proxy
    from tests.chaos.stack import Stack

SILENCE = 36.0
"""Seconds, more than any time limit of the pipeline's own.

Over TCP to Postgres that limit is the kernel's, for bytes that nobody acknowledges (`tcp_user_timeout`, 10 and 30 s).
This proxy's own kernel acknowledges all of them, so it resets what is still silent by then.
"""


def proxy_of(stack: Stack, server: str) -> Proxy:
    return stack.redis_proxy if server == "redis" else stack.postgres_proxy


def cuts(server: str) -> Inject:
    async def inject(stack: Stack, chance: random.Random) -> None:
        proxy = proxy_of(stack, server)
        proxy.refuses = True
        proxy.cut()
        await asyncio.sleep(chance.uniform(1, 4))
        proxy.refuses = False

    return inject


def delays(server: str, seconds: float) -> Inject:
    async def inject(stack: Stack, chance: random.Random) -> None:
        proxy = proxy_of(stack, server)
        proxy.delay = seconds * chance.uniform(0.5, 1)
        await asyncio.sleep(5)
        proxy.delay = 0.0

    return inject


def silences(server: str) -> Inject:
    async def inject(stack: Stack, chance: random.Random) -> None:
        del chance
        proxy = proxy_of(stack, server)
        proxy.hush()
        try:
            await asyncio.sleep(SILENCE)
        finally:
            proxy.end_hush(reset=server == "postgres")

    return inject


for _server in ("redis", "postgres"):
    fault(f"net-{_server}-cut", f"the network to {_server} is cut for up to 4 s, all connections reset")(cuts(_server))
    fault(f"net-{_server}-slow", f"every packet from and to {_server} takes 100-200 ms longer, 5 s")(
        delays(_server, 0.2)
    )
fault("net-redis-half-open", "every connection to Redis falls silent for good; new ones work", mixes=False)(
    silences("redis")
)
fault(
    "net-postgres-half-open", "every connection to Postgres is silent for 36 s, then reset; new ones work", mixes=False
)(silences("postgres"))
