"""`POST /webhooks/{provider}/{tenant}`: one request, four steps.

1. Find the endpoint, in memory.
2. Read the body, under a hard cap.
3. Verify the signature.
4. Append to the inbox, and answer when Redis has confirmed it.

Guarantees: 200 means that the inbox has the event; nothing is stored for any other answer but 503, after which it may
be. Refuses: everything in `ingress.errors`. What a provider asks before it sends (`ingress.schemes.handshakes`) is
answered and stored nowhere. It is a plain ASGI application, without Request and Response objects:
those cost as much as everything here together.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from ingress.errors import (
    BODY_TIMEOUT,
    ENDPOINT_UNREADABLE,
    INBOX_UNAVAILABLE,
    INVALID_SIGNATURE,
    METHOD_NOT_ALLOWED,
    MISSING_SIGNATURE,
    STALE_SIGNATURE,
    UNKNOWN_ENDPOINT,
    WRONG_VERIFY_TOKEN,
    Refusal,
    json_headers,
)
from ingress.metrics import ACCEPTED, HANDSHAKES
from ingress.schemes import unsigned
from ingress.schemes.handshakes import answer_hub_challenge, answer_url_verification
from ingress.schemes.verdict import Handshake, Wrong
from shared.envelope import SIGNED_ID, Envelope, keep, new_event_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import Message, Receive, Scope, Send

    from ingress.body import Gone, Reader
    from ingress.endpoints import Door, Endpoints
    from ingress.errors import Header
    from ingress.inbox import Inbox
    from ingress.metrics import Counts

PREFIX: Final = "/webhooks/"

_REFUSALS: Final = {
    Wrong.MISSING: MISSING_SIGNATURE,
    Wrong.INVALID: INVALID_SIGNATURE,
    Wrong.STALE: STALE_SIGNATURE,
    Wrong.NO_PATH: UNKNOWN_ENDPOINT,
}
ACCEPTED_HEADERS: Final = json_headers(len('{"id":"00000000-0000-7000-8000-000000000000"}'))
_ACCEPTED: Final[Message] = {"type": "http.response.start", "status": 200, "headers": ACCEPTED_HEADERS}
_PLAIN_TEXT: Final = ((b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff"))


class Webhooks:
    """The ASGI application for every path but those of `ingress.health`."""

    def __init__(self, *, reader: Reader, endpoints: Endpoints, inbox: Inbox, counts: Counts) -> None:
        self._reader = reader
        self._endpoints = endpoints
        self._inbox = inbox
        self._requests = counts.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or nobody if the client has gone."""
        door = self._find(scope)
        if isinstance(door, Refusal):
            is_complete = await self._reader.discard(receive)
            answer = self._greet(scope) if door is METHOD_NOT_ALLOWED else door
            if isinstance(answer, bytes):
                await self._shake_hands(answer, send)
            else:
                await self._refuse(answer, receive, send, close=not is_complete)
            return
        try:
            outcome = await self._accept(door, scope["headers"], receive)
        except asyncio.CancelledError:
            outcome = INBOX_UNAVAILABLE  # the server stops and this client took too long
        if isinstance(outcome, str):
            self._requests[ACCEPTED] += 1
            await send(_ACCEPTED)
            await send({"type": "http.response.body", "body": b'{"id":"%b"}' % outcome.encode()})
        elif isinstance(outcome, Refusal):
            await self._refuse(outcome, receive, send, close=outcome.closes)
        elif isinstance(outcome, bytes):
            await self._shake_hands(outcome, send)
        else:
            self._requests[outcome.value] += 1

    def append(
        self, name: str, headers: list[Header], body: bytes, answer: Callable[[str | Refusal], None]
    ) -> bool | Refusal:
        """Append a POST whose body is complete, if nothing speaks against it.

        Args:
            name: its path behind the prefix.
            headers: as ASGI has them.
            body: all of it.
            answer: called later with the event's id, or why there is none.

        Returns:
            True if it will be answered; why it is refused, to be answered at once; or False if it is no plain event:
            nothing was done then, and the request is answered through ASGI.
        """
        if name.count("/") != 1 or len(body) > self._reader.max_bytes:
            return False
        door = self._endpoints.find(name)
        if isinstance(door, Refusal):
            return False  # a query or an escape may be in the name: ASGI takes them apart
        judged = judge(door, headers, body)
        if isinstance(judged, Envelope):
            if self._inbox.append(judged, partial(self._conclude, str(judged.id), answer)):
                return True
            judged = INBOX_UNAVAILABLE
        if isinstance(judged, Refusal):
            self._requests[judged.code] += 1
            return judged
        return False

    def _conclude(self, event_id: str, answer: Callable[[str | Refusal], None], is_stored: bool) -> None:  # noqa: FBT001 see settle
        self._requests[ACCEPTED if is_stored else INBOX_UNAVAILABLE.code] += 1
        answer(event_id if is_stored else INBOX_UNAVAILABLE)

    def _find(self, scope: Scope) -> Door | Refusal:
        path: str = scope["path"]
        name = path.removeprefix(PREFIX)
        if name is path:
            return UNKNOWN_ENDPOINT
        slashes = name.count("/")
        if slashes != 1:
            return self._find_by_token(name, scope["method"]) if slashes == 2 else UNKNOWN_ENDPOINT  # noqa: PLR2004
        return self._endpoints.find(name) if scope["method"] == "POST" else METHOD_NOT_ALLOWED

    def _find_by_token(self, path: str, method: str) -> Door | Refusal:
        """Return an unsigned endpoint whose path ends in one of its tokens; any other has no such path."""
        name, _, token = path.rpartition("/")
        door = self._endpoints.find(name)
        if isinstance(door, Refusal):
            return door
        key = unsigned.find_token(door.alive(time.time()), token) if door.scheme is unsigned else None
        if key is None:
            return UNKNOWN_ENDPOINT
        return replace(door, scheme=unsigned.OPENED, keys=(key,)) if method == "POST" else METHOD_NOT_ALLOWED

    def _greet(self, scope: Scope) -> bytes | Refusal:
        """Answer what is not POST: some providers ask a question with GET before they send."""
        door = self._endpoints.find(scope["path"].removeprefix(PREFIX))
        if (
            isinstance(door, Refusal)
            or door.scheme.handshake is not Handshake.HUB_CHALLENGE
            or scope["method"] != "GET"
        ):
            return METHOD_NOT_ALLOWED
        return answer_hub_challenge(scope["query_string"], door.alive(time.time())) or WRONG_VERIFY_TOKEN

    async def _accept(self, door: Door, headers: list[Header], receive: Receive) -> str | bytes | Refusal | Gone:
        """Return the event's id once the inbox has it, or the answer to a provider's question."""
        body = await self._reader.read(receive, headers)
        if not isinstance(body, bytes):
            return body
        judged = judge(door, headers, body)
        if not isinstance(judged, Envelope):
            return judged
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._inbox.append(judged, partial(settle, stored)) and await stored:
            return str(judged.id)
        return INBOX_UNAVAILABLE

    async def _shake_hands(self, answer: bytes, send: Send) -> None:
        self._requests[HANDSHAKES] += 1
        headers = [*_PLAIN_TEXT, (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _refuse(self, refusal: Refusal, receive: Receive, send: Send, *, close: bool) -> None:
        """Answer; while a body that nobody wants still arrives, keep the connection open behind the answer."""
        self._requests[refusal.code] += 1
        if close and refusal is not BODY_TIMEOUT:
            await refusal.start(send)
            await self._reader.linger(receive)
            await send({"type": "http.response.body"})
        else:
            await refusal.answer(send, close=close)


def judge(door: Door, headers: list[Header], body: bytes) -> Envelope | bytes | Refusal:
    """Verify one request; return what is to be stored, or the answer to a provider's question."""
    now = time.time()
    key = door.scheme.verify(keys=door.alive(now), headers=headers, body=body, now=now)
    if isinstance(key, Wrong):
        is_our_fault = key is Wrong.INVALID and now < door.unreadable_until
        return ENDPOINT_UNREADABLE if is_our_fault else _REFUSALS[key]
    if door.has_challenge and (challenge := answer_url_verification(body)) is not None:
        return challenge
    kept = keep(headers)
    if door.scheme.signed_ids:
        kept = (*kept, (SIGNED_ID, first(headers, door.scheme.signed_ids)))
    received_at = datetime.fromtimestamp(now, UTC)
    return Envelope(
        id=new_event_id(received_at),
        provider=door.provider,
        tenant=door.tenant,
        secret_label=key.label,
        received_at=received_at,
        headers=kept,
        body=body,
    )


def settle(stored: asyncio.Future[bool], is_stored: bool) -> None:  # noqa: FBT001 the inbox calls it with one value
    """Give a waiting request its verdict, unless it was cancelled."""
    if not stored.done():
        stored.set_result(is_stored)


def first(headers: list[Header], names: Sequence[bytes]) -> bytes:
    """Return the value of the first of these headers that is there, as the schemes choose it."""
    found = dict(headers)
    return next(found[name] for name in names if name in found)
