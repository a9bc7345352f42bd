"""What the tests of the drain share: entries as the ingress appends them, and one drain."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from shared.envelope import Envelope, encode, new_event_id
from tests.names import NAMES
from workers.ingest.drain import DrainCounts, drain
from workers.ingest.inbox_reader import InboxReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis import Redis

    from workers.store.connect import Connection

HELLO = b'{"type":"greeting","text":"hello"}'


@dataclass(frozen=True, kw_only=True)
class Settings:
    drain_batch: int = 500
    drain_seconds: float = 60.0
    reclaim_seconds: float = 10.0
    dedup_days: int = 30


ANY_IDLE = Settings(reclaim_seconds=0.0)


both_protocols = pytest.mark.parametrize("client", [2, 3], ids=["RESP2", "RESP3"], indirect=True)


def reader(client: Redis, name: str = "") -> InboxReader:
    return InboxReader(client, names=NAMES, consumer=name or uuid.uuid4().hex)


def post(client: Redis, body: bytes = HELLO, *, stream: str = NAMES.inbox, **changes: Any) -> uuid.UUID:
    """Append one entry as the ingress does."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "id": new_event_id(now),
        "provider": "in-house",
        "tenant": "acme",
        "secret_label": "first",
        "received_at": now,
        "headers": ((b"content-type", b"application/json"), (b"user-agent", b"caf\xe9")),
        "body": body,
    }
    envelope = Envelope(**values | changes)
    client.xadd(stream, encode(envelope))  # type: ignore[arg-type]
    return envelope.id


class Fixed:
    """A catalogue that a function stands for."""

    def __init__(self, wanting: Callable[[str, str | None, str], Sequence[str]]) -> None:
        self.wanting = wanting

    def follow(self, cursor: object, version: int, accepted: object) -> None:
        """Stay as it is."""


everyone = Fixed(lambda _provider, _event, tenant: (f"{tenant}.first", f"{tenant}.second"))
nobody = Fixed(lambda *_: ())


def run(client: Redis, connection: Connection, settings: Settings = ANY_IDLE, **changes: Any) -> DrainCounts:
    values: dict[str, Any] = {"identity": "test", "catalogue": everyone, "settings": settings}
    return drain(reader(client), connection, **values | changes)


def events(connection: Connection) -> dict[uuid.UUID, dict[str, Any]]:
    return {row["id"]: row for row in connection.execute("SELECT * FROM events")}


def count(connection: Connection, table: str) -> int:
    (row,) = connection.execute(f"SELECT count(*) AS n FROM {table}").fetchall()
    return int(row["n"])


def take_and_die(client: Redis, times: int = 1) -> None:
    """Take all that may be taken, and leave it, so many times."""
    for _ in range(times):
        dying = reader(client)
        dying.take_over(dying.list_idle(idle_seconds=0.0, count=1000), idle_seconds=0.0)
        dying.read(1000)


def until(condition: Callable[[], object]) -> None:
    while not condition():
        pass
