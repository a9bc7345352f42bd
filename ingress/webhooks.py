"""`POST /webhooks/{provider}/{tenant}`: one request, four steps.

1. Find the endpoint, in memory.
2. Read the body, under hard limits.
3. Verify the signature.
4. Append to the inbox, and answer 200 when Redis has confirmed it.

Guarantees: 200 means that the inbox has the event; nothing is stored for any other answer but 503, after which it may
be. What a provider asks before it sends (`ingress.schemes.handshakes`) is answered and stored nowhere. These are plain
ASGI applications, without Request and Response objects: those cost as much as everything here together.
"""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingress import errors
from ingress.body import BodyReader, linger
from ingress.endpoints import Endpoint, Endpoints
from ingress.errors import Refusal
from ingress.inbox import Inbox
from ingress.metrics import ACCEPTED, GONE, HANDSHAKES, Metrics
from ingress.refusal_log import RefusalLog
from ingress.schemes import unsigned
from ingress.schemes.handshakes import answer_hub_challenge, answer_url_verification
from ingress.schemes.scheme import BadSignature, Handshake
from shared import traces
from shared.envelope import SIGNED_ID, Envelope, new_event_id, select_headers

_REFUSALS: Final = {
    BadSignature.MISSING: errors.MISSING_SIGNATURE,
    BadSignature.INVALID: errors.INVALID_SIGNATURE,
    BadSignature.STALE: errors.STALE_SIGNATURE,
    BadSignature.NO_PATH: errors.UNKNOWN_ENDPOINT,
}
_ACCEPTED: Final[Message] = {
    "type": "http.response.start",
    "status": 200,
    "headers": errors.json_headers(len('{"id":"00000000-0000-7000-8000-000000000000"}')),
}
_PLAIN_TEXT: Final = ((b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff"))
_NOT_ALLOWED: Final = 405


class Webhooks:
    """The routes of webhooks, and the form that every refusal has."""

    def __init__(
        self,
        *,
        reader: BodyReader,
        endpoints: Endpoints,
        inbox: Inbox,
        metrics: Metrics,
        refusal_log: RefusalLog,
    ) -> None:
        self._reader = reader
        self._endpoints = endpoints
        self._inbox = inbox
        self._requests = metrics.requests
        self._accepted = metrics.requests.labels(ACCEPTED)
        self._refusal_log = refusal_log

    def routes(self) -> list[Route]:
        """Return the routes: a webhook, its provider's question by GET, and one whose path ends in a token."""
        path = "/webhooks/{provider}/{tenant}"
        receive_event = _Asgi(self.receive_event)
        return [
            Route(path, receive_event, methods=["POST"]),
            Route(path, _Asgi(self.answer_question), methods=["GET"]),
            Route(f"{path}/{{token}}", receive_event, methods=["POST"]),
        ]

    async def receive_event(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the four steps."""
        began = time.time_ns()
        endpoint = self._find(scope)
        if isinstance(endpoint, Refusal):
            await self.refuse_unread(endpoint, receive, send)
            return
        try:
            outcome = await self._accept(endpoint, scope["headers"], receive)
        except asyncio.CancelledError:
            outcome = errors.INBOX_UNAVAILABLE  # the server stops and this client took too long
        if isinstance(outcome, Envelope):
            self._accepted.inc()
            await send(_ACCEPTED)
            await send({"type": "http.response.body", "body": b'{"id":"%b"}' % str(outcome.id).encode()})
            traces.current().accepted(outcome, began)
        elif isinstance(outcome, Refusal):
            self._refusal_log.add(outcome, endpoint)
            await self._refuse(outcome, receive, send, close=outcome.closes)
        elif isinstance(outcome, bytes):
            await self._answer_challenge(outcome, send)
        else:
            self._requests.labels(GONE).inc()

    async def answer_question(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what some providers ask with GET before they send; other endpoints know POST only."""
        endpoint = self._find(scope)
        if (
            isinstance(endpoint, Refusal)
            or endpoint.scheme.handshake is not Handshake.HUB_CHALLENGE
            or scope["method"] != "GET"  # Starlette lets HEAD pass
        ):
            raise HTTPException(_NOT_ALLOWED)
        challenge = answer_hub_challenge(scope["query_string"], endpoint.valid_keys(time.time()))
        if challenge is None:
            self._refusal_log.add(errors.WRONG_VERIFY_TOKEN, endpoint)
            await self.refuse_unread(errors.WRONG_VERIFY_TOKEN, receive, send)
        else:
            await self._answer_challenge(challenge, send)

    async def refuse(self, _: Request, error: HTTPException) -> ASGIApp:
        """Put Starlette's own refusals, 404 and 405, into our form; an exception handler of the application."""
        refusal = errors.METHOD_NOT_ALLOWED if error.status_code == _NOT_ALLOWED else errors.UNKNOWN_ENDPOINT
        return lambda _, receive, send: self.refuse_unread(refusal, receive, send)

    async def refuse_unread(self, refusal: Refusal, receive: Receive, send: Send) -> None:
        """Discard the body, then answer."""
        is_complete = await self._reader.discard(receive)
        await self._refuse(refusal, receive, send, close=not is_complete)

    async def _accept(
        self, endpoint: Endpoint, headers: list[errors.Header], receive: Receive
    ) -> Envelope | bytes | Refusal | None:
        """Return the event once the inbox has it, the answer to a question, a refusal, or None for a client gone."""
        body = await self._reader.read(receive, headers)
        if not isinstance(body, bytes):
            return body
        verified = verify_request(endpoint, headers, body)
        if not isinstance(verified, Envelope):
            return verified
        stored = self._inbox.append(verified, endpoint.limits)
        if isinstance(stored, Refusal):
            return stored
        return verified if await stored else errors.INBOX_UNAVAILABLE

    def _find(self, scope: Scope) -> Endpoint | Refusal:
        """Find the endpoint; if the path ends in a token, it must be that of an unsigned one, where it is the key."""
        params = scope["path_params"]
        endpoint = self._endpoints.find(f"{params['provider']}/{params['tenant']}")
        if "token" not in params or isinstance(endpoint, Refusal):
            return endpoint
        keys = endpoint.valid_keys(time.time()) if endpoint.scheme is unsigned.SCHEME else ()
        key = unsigned.find_token(keys, params["token"])
        return replace(endpoint, scheme=unsigned.OPENED, keys=(key,)) if key else errors.UNKNOWN_ENDPOINT

    async def _answer_challenge(self, challenge: bytes, send: Send) -> None:
        self._requests.labels(HANDSHAKES).inc()
        headers = [*_PLAIN_TEXT, (b"content-length", str(len(challenge)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": challenge})

    async def _refuse(self, refusal: Refusal, receive: Receive, send: Send, *, close: bool) -> None:
        """Answer; while a body that nobody wants still arrives, keep the connection open after the answer."""
        self._requests.labels(refusal.code).inc()
        lingers = close and refusal is not errors.BODY_TIMEOUT
        await refusal.answer(send, close=close, more=lingers)
        if lingers:
            await linger(receive)
            await send({"type": "http.response.body"})


class _Asgi:
    """A coroutine function as an ASGI application: Starlette takes a function for an endpoint of requests."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)


def verify_request(endpoint: Endpoint, headers: list[errors.Header], body: bytes) -> Envelope | bytes | Refusal:
    """Verify one request; return what is to be stored, or the answer to a provider's question."""
    now = time.time()
    key = endpoint.scheme.verify(keys=endpoint.valid_keys(now), headers=headers, body=body, now=now)
    if isinstance(key, BadSignature):
        is_our_fault = key is BadSignature.INVALID and now < endpoint.unreadable_until
        return errors.ENDPOINT_UNREADABLE if is_our_fault else _REFUSALS[key]
    if endpoint.scheme.handshake is Handshake.URL_VERIFICATION:
        challenge = answer_url_verification(body)
        if challenge is not None:
            return challenge
    kept = select_headers(headers)
    if endpoint.scheme.signed_ids:
        found = dict(headers)
        kept = (*kept, (SIGNED_ID, next(found[name] for name in endpoint.scheme.signed_ids if name in found)))
    received_at = datetime.fromtimestamp(now, UTC)
    return Envelope(
        id=new_event_id(received_at),
        provider=endpoint.provider,
        tenant=endpoint.tenant,
        secret_label=key.label,
        received_at=received_at,
        headers=kept,
        body=body,
    )
