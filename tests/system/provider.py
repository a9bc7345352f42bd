"""Moveris as a stack sees it: signed posts of any bytes, one at a time or at a steady rate."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Self

import httpx

from tests.moveris import completed, other, signature

if TYPE_CHECKING:
    from types import TracebackType

SIGNATURE: Final = "X-Webhook-Signature"


def sign(secret: bytes, body: bytes) -> dict[str, str]:
    """Return the signature header of a body."""
    return {SIGNATURE: signature(secret, body)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where one tenant's events are posted, and the secret that signs them."""

    ingress_url: str
    tenant: str
    secret: bytes = field(repr=False)
    client: httpx.Client = field(repr=False, compare=False)

    @property
    def url(self) -> str:
        """Return the URL that would be registered with the provider."""
        return f"{self.ingress_url}/webhooks/moveris/{self.tenant}"

    def post(self, body: bytes, *, headers: dict[str, str] | None = None, timeout: float = 5.0) -> httpx.Response:
        """Sign and post one body.

        Raises:
            httpx.TransportError: no answer.
        """
        signed = {"Content-Type": "application/json", **sign(self.secret, body), **(headers or {})}
        return self.client.post(self.url, content=body, headers=signed, timeout=timeout)

    def deliver(self, body: bytes) -> str:
        """Post one body until it is acknowledged, as a provider would after a 503; return the id of the answer."""
        patience = time.monotonic() + 10
        while (answer := self.post(body)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
            assert time.monotonic() < patience, answer.text
            time.sleep(0.1)
        assert answer.status_code == httpx.codes.OK, f"{answer.status_code}: {answer.text}"
        return str(answer.json()["id"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One post of a `Load`: what came back and after how many seconds; status 0 means no answer."""

    status: int
    seconds: float
    event_id: str
    retry_after: str | None


class Load:
    """Posts events of their own at a steady rate from a thread, until the block ends.

    Args:
        endpoint: where to.
        rate: events a second.
        event: type of the events; a `verification.completed` if none is given.
    """

    def __init__(self, endpoint: Endpoint, *, rate: float, event: str = "") -> None:
        # A client of its own: httpx may close the connection that another thread has just been given.
        self._endpoint = replace(endpoint, client=httpx.Client())
        self._pause = 1 / rate
        self._event = event
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answers: list[Answered] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._endpoint.client.close()

    @property
    def acknowledged(self) -> list[str]:
        """Return the ids of everything answered with 200."""
        return [answer.event_id for answer in self.answers if answer.status == httpx.codes.OK]

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += self._pause
            self.answers.append(self._post(other(self._event) if self._event else completed()))

    def _post(self, body: bytes) -> Answered:
        started = time.monotonic()
        try:
            answer = self._endpoint.post(body)
        except httpx.TransportError:
            return Answered(status=0, seconds=time.monotonic() - started, event_id="", retry_after=None)
        return Answered(
            status=answer.status_code,
            seconds=time.monotonic() - started,
            event_id=answer.json().get("id", ""),
            retry_after=answer.headers.get("Retry-After"),
        )
