"""What a handler is given beside the event.

Guarantees: `connection` opens its transaction at first use and commits with the outcome.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid5

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from uuid import UUID

    import psycopg

current: Final[ContextVar[Delivery | None]] = ContextVar("current", default=None)
"""The delivery that a handler is given, while it runs."""


def current_delivery() -> Delivery | None:
    """Return the delivery that is being handled where this is called; None elsewhere.

    Tasks of asyncio and `asyncio.to_thread` see it. A thread of a handler's own sees it if it is run in a copy of the
    handler's context (`contextvars.copy_context().run`).
    """
    return current.get()


class Delivery:
    """One attempt to hand one event to one handler.

    Attributes:
        event_id: the pipeline's id of the event (UUIDv7).
        tenant: whose event it is.
        provider: who sent it.
        handler: the handler's name.
        attempt: number of this attempt, from 1.
        subject: what the event is about, such as Moveris' session id; None where the provider names nothing.
        received_at: when the ingress had the whole body, aware.
        headers: the kept request headers, names in lower case; not signed.
        body: exactly the bytes that were received.
        settings: of the tenant, by name (`pipeline tenants set`); or an object of the model that the handler asks for.
            One that is missing raises an error that says which.
    """

    __slots__ = (
        "_connect",
        "attempt",
        "body",
        "event_id",
        "handler",
        "headers",
        "provider",
        "received_at",
        "settings",
        "subject",
        "tenant",
    )

    def __init__(
        self,
        *,
        event_id: UUID,
        tenant: str,
        provider: str,
        handler: str,
        attempt: int,
        received_at: datetime,
        headers: Mapping[str, str],
        body: bytes,
        subject: str | None = None,
        settings: Any,
        connect: Callable[[], psycopg.Connection[Any]],
    ) -> None:
        self.event_id = event_id
        self.tenant = tenant
        self.provider = provider
        self.handler = handler
        self.attempt = attempt
        self.received_at = received_at
        self.headers = headers
        self.body = body
        self.subject = subject
        self.settings = settings
        self._connect = connect

    @property
    def idempotency_key(self) -> str:
        """A UUID that is the same in every attempt of this delivery, for the APIs that a handler calls.

        Two handlers of one event have different ones.
        """
        return str(uuid5(self.event_id, self.handler))

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The connection whose writes commit with the outcome: exactly once in effect, in this database.

        It belongs to this attempt: take it anew in each. `with delivery.connection.transaction():` makes a savepoint.

        Raises:
            TransactionMisused: on `commit`, `rollback`, `close`, `with delivery.connection`, or after the attempt.
            psycopg.OperationalError: Postgres cannot be reached.
        """
        return self._connect()

    def __repr__(self) -> str:
        return f"<Delivery {self.tenant}/{self.event_id} to {self.handler}, attempt {self.attempt}>"
