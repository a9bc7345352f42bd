"""What a handler is given beside the event.

Guarantees: `connection` opens its transaction at first use and commits with the outcome. Refuses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from uuid import UUID

    import psycopg


class Delivery:
    """One attempt to hand one event to one handler.

    Attributes:
        event_id: the pipeline's id of the event (UUIDv7).
        tenant: whose event it is.
        provider: who sent it.
        handler: the handler's name.
        attempt: number of this attempt, from 1.
        received_at: when the ingress had the whole body, aware.
        headers: the kept request headers, names in lower case; not signed.
        body: exactly the bytes that were received.
    """

    __slots__ = ("_connect", "attempt", "body", "event_id", "handler", "headers", "provider", "received_at", "tenant")

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
        self._connect = connect

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The connection whose writes commit with the outcome: exactly once in effect, in this database.

        Do not commit, roll back or close it; `with delivery.connection.transaction():` makes a savepoint.

        Raises:
            psycopg.OperationalError: Postgres cannot be reached.
        """
        return self._connect()

    def __repr__(self) -> str:
        return f"<Delivery {self.tenant}/{self.event_id} to {self.handler}, attempt {self.attempt}>"
