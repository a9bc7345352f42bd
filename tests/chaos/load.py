"""An open-loop load of signed events: sent at their time, whatever has become of those before.

Every request and its answer is kept. The seed decides what is a duplicate, what is malformed and what is signed
wrongly. When more wait than a provider would have open, the oldest are waited for.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.chaos.client import Connection, post, signature
from tests.moveris import completed

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.chaos.stack import Endpoint

FRESH: Final = "fresh"
DUPLICATE: Final = "duplicate"
MALFORMED: Final = "malformed"
FORGED: Final = "forged"
SHARES: Final = {DUPLICATE: 0.10, MALFORMED: 0.04, FORGED: 0.03}
PATIENCE: Final = 10.0
"""Seconds after which a request counts as hung; the ingress answers within one when Redis does not."""
MOST_OPEN: Final = 400


@dataclass(slots=True, kw_only=True)
class Sent:
    """One request.

    Attributes:
        kind: fresh, duplicate, malformed or forged.
        tenant: whose endpoint it was sent to.
        digest: SHA-256 of the body.
        at: Unix seconds when it was sent.
        answered: Unix seconds of its outcome.
        outcome: a status, or refused, cut, hung.
        event_id: of a 200.
        code: of a refusal.
        port: of the ingress.
    """

    kind: str
    tenant: str
    digest: bytes
    at: float
    port: int
    answered: float = 0.0
    outcome: str = ""
    event_id: str = ""
    code: str = ""


class Sender:
    """Sends until it is stopped."""

    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End. Raises what ended it early."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    async def _run(self) -> None:
        raise NotImplementedError


class Load(Sender):
    """Sends at a rate.

    Args:
        endpoints: one of which each event goes to.
        rate: events a second.
        chance: decides everything.
    """

    def __init__(self, endpoints: Sequence[Endpoint], *, rate: float, chance: random.Random) -> None:
        self.rate = rate
        self.sent: list[Sent] = []
        self.behind = 0
        self._endpoints = endpoints
        self._chance = chance
        self._recent: deque[tuple[Endpoint, bytes]] = deque(maxlen=2000)
        self._idle: dict[int, list[Connection]] = {endpoint.port: [] for endpoint in endpoints}
        self._open: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """End, with every answer in hand."""
        await super().stop()
        if self._open:
            await asyncio.wait(self._open)
        for connection in (connection for idle in self._idle.values() for connection in idle):
            connection.close()

    def send_fresh(self, endpoint: Endpoint, body: bytes) -> Sent:
        """Send one more event beside the load; it is accounted for like all others."""
        return self._begin(FRESH, endpoint, body, signature(endpoint.secret, body))

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            due += self._chance.expovariate(self.rate)
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if len(self._open) >= MOST_OPEN:
                self.behind += 1
                await asyncio.wait(self._open, return_when=asyncio.FIRST_COMPLETED)
            self._begin(*self._choose())

    def _choose(self) -> tuple[str, Endpoint, bytes, bytes]:
        """Return kind, endpoint, body and signature of the next request."""
        (kind,) = self._chance.choices([*SHARES, FRESH], [*SHARES.values(), 1 - sum(SHARES.values())])
        if kind == DUPLICATE and self._recent:
            endpoint, body = self._chance.choice(self._recent)
            others = [other for other in self._endpoints if other.tenant == endpoint.tenant]
            endpoint = self._chance.choice(others)
            return kind, endpoint, body, signature(endpoint.secret, body)
        endpoint = self._chance.choice(self._endpoints)
        if kind == MALFORMED:
            body = b'{"event": "verification.completed", "session_id": "%b", ' % uuid.uuid4().hex.encode()
            return kind, endpoint, body, signature(endpoint.secret, body)
        body = completed()
        if kind == FORGED:
            return kind, endpoint, body, signature(b"somebody else's", body)
        self._recent.append((endpoint, body))
        return FRESH, endpoint, body, signature(endpoint.secret, body)

    def _begin(self, kind: str, endpoint: Endpoint, body: bytes, signed: bytes) -> Sent:
        digest = hashlib.sha256(body).digest()
        sent = Sent(kind=kind, tenant=endpoint.tenant, digest=digest, at=time.time(), port=endpoint.port)
        self.sent.append(sent)
        task = asyncio.create_task(self._send(sent, post(endpoint.path, body, signed)))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        return sent

    async def _send(self, sent: Sent, request: bytes) -> None:
        idle = self._idle[sent.port]
        while idle and not idle[-1].is_open:
            idle.pop().close()
        connection = idle.pop() if idle else Connection(sent.port)
        answer = await connection.send(request, seconds=PATIENCE)
        sent.answered, sent.outcome = time.time(), answer.outcome
        with suppress(ValueError, KeyError):  # without an id, a 200 counts as lost
            if answer.status == 200:
                sent.event_id = json.loads(answer.body)["id"]
            elif answer.body:
                sent.code = json.loads(answer.body)["error"]["code"]
        if connection.is_open:
            idle.append(connection)
